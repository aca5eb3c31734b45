"""`Site.check` itself: which calls may be repeated."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.chaos.equipment import Call
from tests.chaos.support import ARRIVAL_S, Break, _in_hands

TASK, OTHER = "1" * 32, "2" * 32
KILLED = Break(100.0, frozenset({OTHER}), "first")
CUT = Break(100.0, frozenset({OTHER}))


class InHands(SynchronousTestCase):
    def test_killed(self) -> None:
        """A call of a killed process may be repeated, answered or not, even if it reaches A late.
        Another process's call may not.
        """
        for began in (50.0, 99.0, 110.0):
            for answered in (True, False):
                self.assertTrue(
                    _in_hands(TASK, Call(began, began + 1.0, answered, "first"), [KILLED])
                )
                self.assertFalse(
                    _in_hands(TASK, Call(began, began + 1.0, answered, "second"), [KILLED])
                )

    def test_cut(self) -> None:
        """A call that had begun before another fault may be repeated, one that began later
        may not.
        """
        self.assertTrue(_in_hands(TASK, Call(99.0, 101.0, caller="first"), [CUT]))
        self.assertFalse(_in_hands(TASK, Call(100.1 + ARRIVAL_S, caller="first"), [CUT]))

    def test_in_the_journal(self) -> None:
        """A call whose end a worker had seen in the journal may not be repeated. Without a fault no
        call may.
        """
        call = Call(98.0, 99.0, True, "first")
        self.assertFalse(_in_hands(OTHER, call, [KILLED, CUT]))
        self.assertFalse(_in_hands(TASK, call, []))

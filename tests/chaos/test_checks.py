"""The check itself: which calls may be made again."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.chaos.equipment import Call
from tests.chaos.support import ARRIVAL_S, Break, _in_hands

TASK, OTHER = "1" * 32, "2" * 32
KILLED = Break(100.0, frozenset({OTHER}), "first")
CUT = Break(100.0, frozenset({OTHER}))


class InHands(SynchronousTestCase):
    def test_killed(self) -> None:
        """A call of the killed process may be made again, answered or not, however late it comes to
        A; another's may not.
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
        """A call that had begun when something else broke may be made again, one that began later
        may not.
        """
        self.assertTrue(_in_hands(TASK, Call(99.0, 101.0, caller="first"), [CUT]))
        self.assertFalse(_in_hands(TASK, Call(100.1 + ARRIVAL_S, caller="first"), [CUT]))

    def test_in_the_journal(self) -> None:
        """One whose end a worker had seen in the journal may not, nor any where nothing broke."""
        call = Call(98.0, 99.0, True, "first")
        self.assertFalse(_in_hands(OTHER, call, [KILLED, CUT]))
        self.assertFalse(_in_hands(TASK, call, []))

"""Whether A can be reached, as the log has it: a state, not each event."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.equipment.reachability import (
    MAX_REASONS,
    SOON_AFTER_S,
    UNANSWERED_LIMIT,
    UNANSWERED_LIMIT_SOON_AFTER,
    Reachability,
)


class States(SynchronousTestCase):
    def setUp(self) -> None:
        self.reachability = Reachability()

    def unanswered(
        self,
        device: str = "ABC123",
        reason: str = "refused",
        *,
        connected: bool = False,
        now: float = 0.0,
    ) -> bool:
        return self.reachability.unanswered(device, reason, connected=connected, now=now)

    def test_entered_and_left(self) -> None:
        """A row of calls that came to no connection is told once, and the first answer takes it
        back, once.
        """
        self.assertEqual(
            [self.unanswered() for _ in range(UNANSWERED_LIMIT + 3)],
            [False] * (UNANSWERED_LIMIT - 1) + [True] + [False] * 3,
        )
        self.assertEqual([self.reachability.answered() for _ in range(2)], [True, False])

    def test_answers_between(self) -> None:
        """Single calls without an answer, among others that get one, are not told."""
        for _ in range(20):
            self.assertEqual(
                [self.unanswered() for _ in range(UNANSWERED_LIMIT - 1)],
                [False] * (UNANSWERED_LIMIT - 1),
            )
            self.assertFalse(self.reachability.answered())

    def test_one_device(self) -> None:
        """A device at whose calls A closes the connection says nothing of A, however often that is;
        several do.
        """
        self.assertFalse(any(self.unanswered(connected=True) for _ in range(100)))
        others = [
            self.unanswered(f"XYZ00{number}", "closed", connected=True)
            for number in range(UNANSWERED_LIMIT - 1)
        ]
        self.assertEqual(others, [False] * (UNANSWERED_LIMIT - 2) + [True])

    def test_reasons(self) -> None:
        """Further reasons of the same outage are told, once each, and not without end."""
        for _ in range(UNANSWERED_LIMIT):
            self.unanswered()
        told = [self.unanswered(reason=str(number % 20)) for number in range(100)]
        self.assertEqual(told, [True] * (MAX_REASONS - 1) + [False] * (100 - MAX_REASONS + 1))

    def test_coming_and_going(self) -> None:
        """An A that comes and goes is not told of each time; one that stays away is."""
        told = 0
        for second in range(int(3 * SOON_AFTER_S)):
            told += sum(self.unanswered(now=float(second)) for _ in range(UNANSWERED_LIMIT + 1))
            self.reachability.answered()
        self.assertEqual(told, 3)
        self.assertTrue(
            any(self.unanswered(now=3 * SOON_AFTER_S) for _ in range(UNANSWERED_LIMIT_SOON_AFTER))
        )

    @given(st.lists(st.one_of(st.none(), st.tuples(st.sampled_from("abcdef"), st.booleans()))))
    def test_in_turn(self, events: list[tuple[str, bool] | None]) -> None:
        """Whatever comes, nothing is taken back that was not told, and what was told is taken back
        by the next answer.
        """
        reachability, out = Reachability(), False
        for now, event in enumerate(events):
            if event is None:
                self.assertEqual(reachability.answered(), out)
                out = False
            else:
                device, connected = event
                news = reachability.unanswered(
                    device, "one reason", connected=connected, now=float(now)
                )
                self.assertFalse(news and out)
                out = out or news

"""Log lines about the reachability of A: one for each change, not for each call."""

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
        """Several calls in a row without a connection are logged once, and so is the first answer
        after that.
        """
        self.assertEqual(
            [self.unanswered() for _ in range(UNANSWERED_LIMIT + 3)],
            [False] * (UNANSWERED_LIMIT - 1) + [True] + [False] * 3,
        )
        self.assertEqual([self.reachability.answered() for _ in range(2)], [True, False])

    def test_answers_between(self) -> None:
        """Single calls without an answer, between others with one, are not logged."""
        for _ in range(20):
            self.assertEqual(
                [self.unanswered() for _ in range(UNANSWERED_LIMIT - 1)],
                [False] * (UNANSWERED_LIMIT - 1),
            )
            self.assertFalse(self.reachability.answered())

    def test_one_device(self) -> None:
        """If A closes the connection for the calls of one device only, that is not an outage of A,
        however often. For several devices it is.
        """
        self.assertFalse(any(self.unanswered(connected=True) for _ in range(100)))
        others = [
            self.unanswered(f"XYZ00{number}", "closed", connected=True)
            for number in range(UNANSWERED_LIMIT - 1)
        ]
        self.assertEqual(others, [False] * (UNANSWERED_LIMIT - 2) + [True])

    def test_reasons(self) -> None:
        """Further reasons of the same outage are logged, once each, up to a limit."""
        for _ in range(UNANSWERED_LIMIT):
            self.unanswered()
        told = [self.unanswered(reason=str(number % 20)) for number in range(100)]
        self.assertEqual(told, [True] * (MAX_REASONS - 1) + [False] * (100 - MAX_REASONS + 1))

    def test_coming_and_going(self) -> None:
        """Not every short outage of A is logged; a long one is."""
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
        """For any sequence of results, an end is logged only after a beginning, and at the next
        answer.
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

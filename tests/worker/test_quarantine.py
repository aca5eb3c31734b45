"""The quarantine of tasks that may kill their worker: how many of them run at the same time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtprov.worker.quarantine import (
    GIVE_UP_AFTER,
    SUSPECT_AFTER,
    Quarantine,
    max_concurrent_suspects,
)


class Company(SynchronousTestCase):
    def test_by_deaths(self) -> None:
        """Few crashes set no limit. With more, fewer tasks run together, and in the end only
        one.
        """
        self.assertEqual(
            [max_concurrent_suspects(crash_count) for crash_count in range(SUSPECT_AFTER + 4)],
            [None] * SUSPECT_AFTER + [64, 8, 1, 1],
        )
        self.assertEqual(max_concurrent_suspects(GIVE_UP_AFTER), 1)


class QuarantineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.quarantine = Quarantine()

    def running(self, entered: list[Deferred[None]]) -> int:
        return sum(each.called for each in entered)

    def test_no_suspects(self) -> None:
        """A task that is not a suspect starts at once and is not counted."""
        alone = self.quarantine.enter(99)
        self.successResultOf(alone)
        for _ in range(1000):
            self.successResultOf(self.quarantine.enter(SUSPECT_AFTER - 1))

    def test_company(self) -> None:
        """The suspect with the most crashes limits how many run at the same time. The others follow
        in order.
        """
        entered = [self.quarantine.enter(SUSPECT_AFTER) for _ in range(70)]
        self.assertEqual(self.running(entered), 64)
        self.quarantine.leave(SUSPECT_AFTER)
        self.assertEqual([each.called for each in entered[64:]], [True] + [False] * 5)

    def test_alone(self) -> None:
        """A suspect that must run alone waits for all before it, and all after it wait for it."""
        first = [self.quarantine.enter(SUSPECT_AFTER) for _ in range(2)]
        alone, later = (
            self.quarantine.enter(SUSPECT_AFTER + 2),
            self.quarantine.enter(SUSPECT_AFTER),
        )
        self.assertEqual(self.running([*first, alone, later]), 2)
        self.quarantine.leave(SUSPECT_AFTER)
        self.assertNoResult(alone)
        self.quarantine.leave(SUSPECT_AFTER)
        self.successResultOf(alone)
        self.assertNoResult(later)
        self.quarantine.leave(SUSPECT_AFTER + 2)
        self.successResultOf(later)

    def test_nothing_to_do(self) -> None:
        """Suspects that leave as soon as they enter all get their turn, in order, and the place is
        free afterwards.
        """
        self.quarantine.enter(SUSPECT_AFTER + 2)
        left: list[int] = []

        def leave(_: None, number: int) -> None:
            self.quarantine.leave(SUSPECT_AFTER)
            left.append(number)

        for number in range(1000):
            self.quarantine.enter(SUSPECT_AFTER).addCallback(leave, number)
        self.quarantine.leave(SUSPECT_AFTER + 2)
        self.assertEqual(left, list(range(1000)))
        self.successResultOf(self.quarantine.enter(SUSPECT_AFTER + 2))

    def test_cancelled(self) -> None:
        """A suspect that is cancelled while it waits is removed from the queue."""
        self.quarantine.enter(SUSPECT_AFTER + 2)
        second, third = (
            self.quarantine.enter(SUSPECT_AFTER + 2),
            self.quarantine.enter(SUSPECT_AFTER + 2),
        )
        second.addErrback(lambda _: None).cancel()
        self.quarantine.leave(SUSPECT_AFTER + 2)
        self.successResultOf(third)

    @given(st.lists(st.integers(0, GIVE_UP_AFTER), max_size=60))
    def test_all_get_their_turn(self, crash_count: list[int]) -> None:
        """For any sequence of suspects, each gets its turn, and no more run together than each of
        them allows.
        """
        quarantine = Quarantine()
        waiting = [(each, quarantine.enter(each)) for each in crash_count]
        while waiting:
            inside = [
                each
                for each, entered in waiting
                if entered.called and max_concurrent_suspects(each) is not None
            ]
            self.assertTrue(
                all(len(inside) <= (max_concurrent_suspects(each) or 0) for each in inside)
            )
            going = next((pair for pair in waiting if pair[1].called), None)
            assert going is not None, "no task can start"
            waiting.remove(going)
            quarantine.leave(going[0])

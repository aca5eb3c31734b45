"""`for_each`: many pieces of work, few of them at the same time."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtprov.worker.pace import for_each


class Pace(SynchronousTestCase):
    def setUp(self) -> None:
        self.begun: list[int] = []
        self.under_way: list[Deferred[None]] = []

    async def work(self, item: int) -> None:
        self.begun.append(item)
        self.under_way.append(Deferred())
        await self.under_way[-1]

    def test_in_order(self) -> None:
        """At most `at_once` run at the same time. The next one begins when one ends, in order."""
        done = Deferred.fromCoroutine(for_each(range(5), self.work, at_once=2))
        self.assertEqual(self.begun, [0, 1])
        for _ in range(5):
            self.under_way.pop(0).callback(None)
        self.assertEqual((self.begun, self.successResultOf(done)), ([0, 1, 2, 3, 4], None))

    def test_an_error(self) -> None:
        """An error ends the whole loop and is raised unchanged."""
        done = Deferred.fromCoroutine(for_each(range(5), self.work, at_once=2))
        self.under_way[0].errback(ZeroDivisionError())
        self.failureResultOf(done, ZeroDivisionError)
        self.assertEqual(self.begun, [0, 1])

    def test_cancelled(self) -> None:
        """Cancelling ends the running work, and no more begins."""
        done = Deferred.fromCoroutine(for_each(range(5), self.work, at_once=2))
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.begun, [0, 1])

    def test_very_many_at_once(self) -> None:
        """Work that does not wait causes no recursion."""
        seen: list[int] = []

        async def note(item: int) -> None:
            seen.append(item)

        self.successResultOf(Deferred.fromCoroutine(for_each(range(10_000), note, at_once=3)))
        self.assertEqual(len(seen), 10_000)

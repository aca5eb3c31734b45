"""`for_each`: many pieces of work, few of them at the same time. `Pace`: few in one turn."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.trial.unittest import SynchronousTestCase

from rtprov.worker.pace import Pace, for_each
from tests.support.turns import TurnClock


class AtOnce(SynchronousTestCase):
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


class ATurn(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.pace = Pace(2, cast("IReactorTime", self.clock))

    def test_few(self) -> None:
        """The first ones pass at once, in each turn."""
        for _ in range(3):
            self.successResultOf(self.pace.turn())
            self.successResultOf(self.pace.turn())
            self.clock.turn()

    def test_many(self) -> None:
        """The others pass in later turns, in order. Those that come meanwhile are last."""
        turns = [self.pace.turn() for _ in range(5)]
        self.assertFalse(self.pace.allows())
        self.clock.turn()
        self.assertEqual([each.called for each in turns], [True] * 4 + [False])
        turns.append(self.pace.turn())
        self.assertNoResult(turns[-1])
        self.clock.turn()
        self.assertTrue(all(each.called for each in turns))
        self.clock.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_chain(self) -> None:
        """If each one that passes asks again, the turns still end."""
        passed = 0

        def again(_: None) -> None:
            nonlocal passed
            passed += 1
            self.pace.turn().addCallback(again)

        self.pace.turn().addCallback(again)
        for number in range(1, 4):
            self.assertEqual(passed, 2 * number)
            self.clock.turn()

    def test_given_up(self) -> None:
        """One that gives up leaves its place to the next."""
        turns = [self.pace.turn() for _ in range(5)]
        turns[2].addErrback(lambda _: None).cancel()
        self.clock.turn()
        self.assertTrue(turns[4].called)

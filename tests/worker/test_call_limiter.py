"""The call limiter: how many calls may run, in which order they start, and what the breaker
adds.
"""

from __future__ import annotations

import random
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import EquipmentUnreachable, OutOfPatience
from rtprov.model import DEFAULT_URGENCY, EquipmentState
from rtprov.worker.call_limiter import CallLimiter, Permit
from rtprov.worker.circuit_breaker import FAILURE_THRESHOLD, CircuitBreaker
from rtprov.worker.pace import Pace
from rtprov.worker.token_bucket import TokenBucket
from tests.support.fakes import NoPace
from tests.support.turns import TurnClock


class GateTestCase(SynchronousTestCase):
    concurrency = 20
    per_second: float | None = None

    def setUp(self) -> None:
        self.clock = TurnClock()
        breaker = CircuitBreaker(concurrency=self.concurrency, rng=random.Random(7))
        self.gate = CallLimiter(
            concurrency=self.concurrency,
            breaker=breaker,
            pace=self.new_pace(),
            clock=cast("IReactorTime", self.clock),
            per_second=self.per_second,
        )
        self.logged: list[str] = []
        observer = cast("ILogObserver", self.observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def new_pace(self) -> Pace:
        return NoPace()

    def observe(self, event: LogEvent) -> None:
        self.logged.append(formatEvent(event))

    def enter(self, left_s: float = 600.0) -> Deferred[Permit]:
        return self.gate.enter(left_s)

    def fail_call(self, permit: Permit, device: str) -> None:
        permit.outage(device, EquipmentUnreachable("refused"))
        permit.end()

    def bring_trouble(self) -> None:
        for number in range(FAILURE_THRESHOLD):
            self.fail_call(self.successResultOf(self.enter()), f"DEVICE{number}")

    def advance(self, seconds: float) -> None:
        self.clock.pump([0.1] * round(seconds * 10))


class Concurrency(GateTestCase):
    concurrency = 2

    def test_first_come_first_served(self) -> None:
        """Calls start at once up to the limit. The others start in order of arrival as calls
        end.
        """
        first, second, third, fourth = (self.enter() for _ in range(4))
        permit = self.successResultOf(first)
        self.successResultOf(second)
        self.assertNoResult(third)
        permit.end()
        self.assertNoResult(fourth)
        self.successResultOf(third)
        permit.end()
        self.assertNoResult(fourth)

    def test_turns(self) -> None:
        """An earlier turn goes first, whenever it enters; a new one goes last. Cancelled entries do
        not pile up in the queue.
        """
        held = [self.successResultOf(self.enter()) for _ in range(2)]
        early, late = self.gate.next_turn(), self.gate.next_turn()
        new, behind, before = (
            self.enter(),
            self.gate.enter(600.0, late),
            self.gate.enter(600.0, early),
        )
        for _ in range(5000):
            self.failureResultOf(self.cancelled(self.gate.enter(600.0, early)))
        self.assertLess(len(self.gate._queue._shares[None].heap), 2000)
        held[0].end()
        self.assertNoResult(behind)
        self.successResultOf(before).end()
        self.assertNoResult(new)
        self.successResultOf(behind).end()
        self.successResultOf(new)

    def cancelled(self, waiting: Deferred[Permit]) -> Deferred[Permit]:
        waiting.cancel()
        return waiting

    def test_given_up(self) -> None:
        """An entry that is cancelled while it waits is removed from the queue."""
        held = [self.successResultOf(self.enter()) for _ in range(2)]
        given_up, next_one = self.enter(), self.enter()
        given_up.cancel()
        self.failureResultOf(given_up)
        held[0].end()
        self.successResultOf(next_one)

    def test_no_patience_is_lost_in_an_ordinary_queue(self) -> None:
        """While A is well, waiting for a turn uses no patience and no timer."""
        held = [self.successResultOf(self.enter()) for _ in range(2)]
        waiting = self.enter(left_s=1.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(1000.0)
        self.assertNoResult(waiting)
        held[0].end()
        self.successResultOf(waiting)


class Trouble(GateTestCase):
    def test_one_probe(self) -> None:
        """While A is in trouble, all entries wait. One probe starts after a pause, and the next one
        after a longer pause if the first has failed.
        """
        self.bring_trouble()
        waiting = [self.enter() for _ in range(100)]
        self.assertEqual(sum(each.called for each in waiting), 0)
        self.advance(1.1)
        self.assertEqual([each.called for each in waiting].index(False), 1)
        self.fail_call(self.successResultOf(waiting[0]), "PROBE")
        self.advance(0.9)
        self.assertEqual(sum(each.called for each in waiting), 1)
        self.advance(1.2)
        self.assertEqual(sum(each.called for each in waiting), 2)

    def test_growing_back(self) -> None:
        """After an answer, waiting calls start in growing steps, until A is well again."""
        self.bring_trouble()
        waiting = [self.enter() for _ in range(100)]
        self.advance(1.1)
        probe = self.successResultOf(waiting[0])
        probe.answered()
        probe.end()
        counts = []
        for _ in range(3):
            counts.append(sum(each.called for each in waiting))
            self.advance(2.1)
        self.assertEqual(counts, [6, 11, 21])
        for each in waiting[1:]:
            self.successResultOf(each).end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_told(self) -> None:
        """Every watcher is called at every change of the state."""
        states: list[EquipmentState] = []
        self.gate.watchers.append(lambda: states.append(self.gate.state))
        self.bring_trouble()
        probe = self.enter()
        self.advance(1.0)
        permit = self.successResultOf(probe)
        permit.answered()
        permit.end()
        self.advance(30.0)
        self.successResultOf(self.enter())
        self.assertEqual(
            states, [EquipmentState.OPEN, EquipmentState.HALF_OPEN, EquipmentState.CLOSED]
        )

    def test_said_once(self) -> None:
        """The log says once that A is in trouble and once that this is over, however many calls
        fail.
        """
        permits = [self.successResultOf(self.enter()) for _ in range(20)]
        for number, permit in enumerate(permits):
            self.fail_call(permit, f"DEVICE{number}")
        waiting = [self.enter() for _ in range(3)]
        for number in range(2):
            self.advance(3.0)
            self.fail_call(self.successResultOf(waiting[number]), f"PROBE{number}")
        self.assertEqual(
            self.logged,
            ["A is in trouble (refused): holding back calls, one call at a time probes it"],
            "while it lasts",
        )
        self.advance(5.0)
        probe = self.successResultOf(waiting[2])
        probe.answered()
        probe.end()
        self.advance(10.0)
        self.assertEqual(self.logged[1:], ["A has recovered: making calls as usual"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_patience(self) -> None:
        """An entry that waits while A is in trouble fails when its patience is over. This includes
        entries that were waiting before the trouble began.
        """
        held = [self.successResultOf(self.enter()) for _ in range(self.concurrency)]
        before = self.enter(left_s=5.0)
        for number, permit in enumerate(held[:FAILURE_THRESHOLD]):
            permit.outage(f"DEVICE{number}", EquipmentUnreachable("refused"))
        after = self.enter(left_s=10.0)
        self.advance(4.8)
        self.assertNoResult(before)
        self.advance(1.4)
        self.failureResultOf(before, OutOfPatience)
        self.assertNoResult(after)
        self.advance(5.0)
        self.failureResultOf(after, OutOfPatience)
        for permit in held:
            permit.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_patience_while_it_gets_better(self) -> None:
        """Entries do not run out of patience once A answers again. A permit says for how long its
        call has waited.
        """
        self.bring_trouble()
        waiting = [self.enter(left_s=5.0) for _ in range(12)]
        self.advance(1.1)
        probe = self.successResultOf(waiting[0])
        self.advance(3.0)
        probe.answered()
        probe.end()
        self.advance(1.9)
        self.assertEqual(sum(each.called for each in waiting), 6)
        self.assertAlmostEqual(self.successResultOf(waiting[1]).waited_s, 4.1)
        self.advance(0.3)
        self.assertAlmostEqual(self.successResultOf(waiting[10]).waited_s, 6.1, places=0)

    def test_nobody_waits(self) -> None:
        """While no call waits, no timer runs."""
        self.bring_trouble()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(1000.0)
        self.successResultOf(self.enter())

    def test_a_probe_that_never_calls(self) -> None:
        """If a probe ends without a call, the next entry becomes the probe at once."""
        self.bring_trouble()
        first, second = self.enter(), self.enter()
        self.advance(1.1)
        self.assertNoResult(second)
        self.successResultOf(first).end()
        self.successResultOf(second)

    def test_stopped(self) -> None:
        """A limiter that is stopped while A is in trouble leaves no timer."""
        self.bring_trouble()
        waiting = self.enter()
        self.gate.stop()
        waiting.cancel()
        self.failureResultOf(waiting)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Paced(GateTestCase):
    """Few permits are given in one turn of the reactor."""

    def new_pace(self) -> Pace:
        return Pace(3, cast("IReactorTime", self.clock))

    def test_many_at_once(self) -> None:
        """If many permits are free, they are given in several turns, in order."""
        waiting = [self.enter() for _ in range(8)]
        for permitted in (3, 6, 8):
            called = [each.called for each in waiting]
            self.assertEqual(called, [True] * permitted + [False] * (8 - permitted))
            self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled_meanwhile(self) -> None:
        """A waiter that gives up does not hold back the ones after it."""
        waiting = [self.enter() for _ in range(5)]
        waiting[3].addErrback(lambda _: None).cancel()
        self.clock.turn()
        self.successResultOf(waiting[4])

    def test_stopped_meanwhile(self) -> None:
        """A limiter that is stopped gives no more permits by itself."""
        waiting = [self.enter() for _ in range(5)]
        self.gate.stop()
        self.clock.turn()
        self.assertEqual(sum(each.called for each in waiting), 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Shares(GateTestCase):
    """Callers share the permits."""

    concurrency = 4

    def enter_for(self, caller: str | None, urgency: int = DEFAULT_URGENCY) -> Deferred[Permit]:
        return self.gate.enter(600.0, None, caller, urgency)

    def test_a_late_caller(self) -> None:
        """A caller with one task gets the next free permit, however many tasks of another one came
        before.
        """
        running = [self.successResultOf(self.enter_for("many")) for _ in range(4)]
        waiting = [self.enter_for("many") for _ in range(1000)]
        single = self.enter_for("single")
        self.assertEqual((self.gate.waiting("many"), self.gate.waiting("single")), (1000, 1))
        running[0].end()
        self.successResultOf(single)
        self.assertNoResult(waiting[0])
        running[1].end()
        self.successResultOf(waiting[0])

    def test_given_up(self) -> None:
        """A waiter that gives up takes nothing of its caller's share."""
        running = [self.successResultOf(self.enter_for("many")) for _ in range(4)]
        waiting, single = self.enter_for("many"), self.enter_for("single")
        single.addErrback(lambda _: None).cancel()
        running[0].end()
        self.successResultOf(waiting)

    def test_urgency(self) -> None:
        """Within a caller, the more urgent task is first."""
        running = [self.successResultOf(self.enter_for("one")) for _ in range(4)]
        usual, urgent = self.enter_for("one"), self.enter_for("one", 0)
        running[0].end()
        self.assertNoResult(usual)
        self.successResultOf(urgent)


class Rate(GateTestCase):
    """A largest number of permits in a second."""

    concurrency = 1000
    per_second = 20.0

    def test_steady(self) -> None:
        """After a small burst, permits come at the rate. No timer runs while nobody waits."""
        waiting = [self.enter() for _ in range(50)]
        self.assertEqual(sum(each.called for each in waiting), 2)
        for seconds in (1, 2):
            self.clock.pump([0.01] * 100)
            self.assertAlmostEqual(sum(each.called for each in waiting), 2 + 20 * seconds, delta=1)
        self.clock.pump([0.01] * 100)
        self.assertTrue(all(each.called for each in waiting))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_after_a_rest(self) -> None:
        """Time without calls saves up no more than the small burst."""
        self.successResultOf(self.enter())
        self.clock.advance(3600.0)
        waiting = [self.enter() for _ in range(10)]
        self.assertEqual(sum(each.called for each in waiting), 2)
        self.gate.stop()

    def test_slow(self) -> None:
        """A rate below one a second works, too."""
        self.gate._rate = TokenBucket(0.1)
        first, second = self.enter(), self.enter()
        self.successResultOf(first)
        self.clock.advance(9.9)
        self.assertNoResult(second)
        self.clock.advance(0.2)
        self.successResultOf(second)

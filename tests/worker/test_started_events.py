"""When a call begins: after the replica has seen its `Started`, and with few others in one turn."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.model import Cancelled, Requested, Started
from rtprov.worker.pace import Pace
from rtprov.worker.started_events import SEEN_WITHIN_S, StartedEvents
from tests.support.late_worker_case import LateTestCase
from tests.support.worker_case import EPOCH, WorkerTestCase, task_id


class Expected(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events = StartedEvents(cast("IReactorTime", self.clock))
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def started(self, number: int, attempt: int = 1) -> Started:
        return Started(task_id(number), "DEVICE1", EPOCH, attempt)

    def test_seen(self) -> None:
        """The wait ends with the event of that attempt."""
        seen = self.events.expect(task_id(1), 2)
        for other in (self.started(2, 2), self.started(1, 1)):
            self.events.on_started(other)
            self.assertNoResult(seen)
        self.events.on_started(self.started(1, 2))
        self.assertTrue(self.successResultOf(seen))
        self.events.on_started(self.started(1, 2))

    def test_not_seen(self) -> None:
        """It ends after a second without the event."""
        seen = [self.events.expect(task_id(number), 1) for number in range(3)]
        seen[0].addCallback(lambda _: seen[1].addErrback(lambda _: None).cancel())
        self.clock.advance(SEEN_WITHIN_S)
        self.assertFalse(self.successResultOf(seen[2]))
        again = self.events.expect(task_id(0), 1)
        self.clock.advance(SEEN_WITHIN_S)
        self.assertFalse(self.successResultOf(again))

    def test_cancelled(self) -> None:
        """No timer runs while nobody waits."""
        first, second = (self.events.expect(task_id(number), 1) for number in range(2))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.events.on_started(self.started(1))
        self.successResultOf(second)


class BeforeTheCall(LateTestCase):
    """The replica sees events only when the test says so."""

    def begin(self) -> None:
        self.apply(Requested(task_id(1), "DEVICE1", EPOCH, whole=True))
        self.deliver(1)
        self.assertEqual((self.equipment.calls, self.late.barriers), ([], 0))

    def test_seen(self) -> None:
        """A is called when the replica has seen the task's `Started`. No barrier is needed."""
        self.begin()
        self.late.land()
        self.assertEqual((self.equipment.under_way, self.late.barriers), ([task_id(1)], 0))

    def test_cancelled_before(self) -> None:
        """A is not called if a cancellation comes before it."""
        self.begin()
        self.late.order.insert(0, Cancelled(task_id(1), "DEVICE1", EPOCH))
        self.late.land()
        self.assertEqual((self.equipment.calls, self.worker.held), ([], 0))

    def test_late(self) -> None:
        """If the replica does not see it within a second, a barrier is asked for."""
        self.begin()
        self.clock.advance(SEEN_WITHIN_S)
        self.assertEqual((self.equipment.calls, self.late.barriers), ([], 1))
        self.late.land()
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_lost(self) -> None:
        """A task that waits for it is forgotten with the connection."""
        self.begin()
        self.lose_connection()
        self.late.land()
        self.assertEqual((self.equipment.calls, self.worker.held), ([], 0))


class ManyAtOnce(WorkerTestCase):
    concurrency = 100

    def new_pace(self) -> Pace:
        return Pace(4, cast("IReactorTime", self.clock))

    def test_few_calls_in_a_turn(self) -> None:
        """When many tasks come at once, a few calls begin in each turn, in order."""
        for number in range(10):
            self.deliver(number, f"DEVICE{number}")
        for begun in (4, 8, 10):
            self.assertEqual(self.equipment.under_way, [task_id(each) for each in range(begun)])
            self.clock.turn()

    def test_cancelled_meanwhile(self) -> None:
        """A task whose delivery is lost while it waits for its turn is not called."""
        deliveries = [self.deliver(number, f"DEVICE{number}") for number in range(6)]
        self.lose_connection(*deliveries)
        self.clock.turn()
        self.assertEqual(len(self.equipment.calls), 4)

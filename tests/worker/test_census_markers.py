"""The census: when it publishes a marker, and what it does when the marker arrives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import BrokerUnavailable
from rtprov.journal.store import Store
from rtprov.messaging.event_messages import encode_task
from rtprov.model import Cancelled, Finished, Requested, State, Task
from rtprov.worker.census import EVERY_S, LOOK_S, RIVAL_S, SELDOM_S, SURE_AFTER, Census
from tests.support.fakes import FakeDelivery, FakeJournal, FakeReplica, PlainSealer

EPOCH = 1_800_000_000.0


def task_id(number: int) -> str:
    return f"{number:032x}"


class Queue:
    """A work queue that remembers what is published, and numbers copies as the real one does."""

    def __init__(self) -> None:
        self.published = 0
        self.copies: dict[str, int] = {}
        self.markers: list[str] = []
        self.put_back: list[str] = []
        self.up = True

    def put(self, task_id: str, body: bytes, headers: Mapping[str, object]) -> Deferred[None]:
        self.published += 1
        self.copies[task_id] = self.published
        self.put_back.append(task_id)
        return succeed(None)

    def put_marker(self, marker_id: str) -> Deferred[None]:
        self.markers.append(marker_id)
        return succeed(None) if self.up else fail(BrokerUnavailable("away"))

    def delivered_upto(self, number: int) -> None:
        self.copies = {each: copy for each, copy in self.copies.items() if copy > number}


class Journal(FakeJournal):
    """A journal that returns the orders of its tasks by offset."""

    replica: FakeReplica
    orders: dict[int, bytes]

    @property
    def next_offset(self) -> int:
        return self.replica.offset

    async def read(self, connection: Any, offsets: Iterable[int]) -> dict[int, FakeDelivery]:
        return {each: FakeDelivery(self.orders[each]) for each in offsets if each in self.orders}


class Worker:
    def __init__(self) -> None:
        self.held: set[str] = set()

    def held_tasks(self) -> set[str]:
        return set(self.held)


class Presence:
    consuming = True
    rival_at: float | None = None


class CensusTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.replica = FakeReplica(Store(1000.0))
        self.journal = Journal(self.replica.apply)
        self.journal.replica, self.journal.orders = self.replica, {}
        self.queue, self.worker, self.presence, self.repairs = Queue(), Worker(), Presence(), 0
        ids = iter(range(1000))
        self.census = Census(
            name="queue",
            store=self.replica.store,
            open_tasks=self.replica.open_tasks,
            journal=cast("Any", self.journal),
            reader=cast("Any", self.journal),
            queue=cast("Any", self.queue),
            presence=cast("Any", self.presence),
            worker=lambda: cast("Any", self.worker),
            repair=self.repair,
            new_marker_id=lambda: f"marker {next(ids)}",
            clock=cast("Any", self.clock),
            wall_clock=lambda: EPOCH,
        )
        self.successResultOf(Deferred.fromCoroutine(self.census.attach(cast("Any", object()))))
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.census.detach)

    def repair(self) -> None:
        self.repairs += 1

    def request(self, *numbers: int) -> None:
        for number in numbers:
            task = Task(task_id(number), "DEVICE1", 14, EPOCH, PlainSealer().seal(b"{}"))
            self.journal.orders[self.replica.offset] = encode_task(task)
            self.replica.apply(Requested(task.task_id, "DEVICE1", EPOCH, whole=True))

    def hold(self, *numbers: int) -> None:
        self.worker.held = {task_id(number) for number in numbers}

    def look(self, times: int = 1) -> None:
        self.clock.pump([LOOK_S] * times)

    def marker(self) -> None:
        """Deliver the newest marker to this worker."""
        self.census.on_marker(self.queue.markers[-1])

    def put_back(self) -> list[int]:
        return [int(each, 16) for each in self.queue.put_back]


class Asking(CensusTestCase):
    def test_nothing_is_open(self) -> None:
        """If all open tasks are held, no marker is published."""
        self.request(1)
        self.hold(1)
        self.look(100)
        self.assertEqual(self.queue.markers, [])

    def test_what_is_new(self) -> None:
        """No marker is published for a task that was requested since the last look: its message may
        still be on its way.
        """
        self.request(1)
        self.look()
        self.assertEqual(len(self.queue.markers), 0)
        self.look()
        self.assertEqual(len(self.queue.markers), 1)

    def test_a_marker_that_does_not_come(self) -> None:
        """If a marker does not arrive, the next ones follow at growing intervals. It may be far
        back in a long queue, be lost, or be delivered to the active worker.
        """
        self.request(1)
        self.look(2)
        self.clock.pump([LOOK_S] * int(EVERY_S / LOOK_S))
        self.assertEqual(len(self.queue.markers), 2)
        self.clock.pump([LOOK_S] * int(86400 / LOOK_S))
        self.assertLess(len(self.queue.markers), 2 + 10 + 86400 / SELDOM_S)

    def test_a_standby(self) -> None:
        """A worker without deliveries publishes a marker after it has seen no other worker at work
        for two minutes.
        """
        self.presence.consuming, self.presence.rival_at = False, 0.0
        self.request(1)
        self.clock.pump([LOOK_S] * int(RIVAL_S / LOOK_S - 1))
        self.assertEqual(self.queue.markers, [])
        self.clock.advance(LOOK_S)
        self.assertEqual(len(self.queue.markers), 1)

    def test_the_broker_is_away(self) -> None:
        """If a marker could not be published, another one is published later."""
        self.queue.up = False
        self.request(1)
        self.look(20)
        self.assertGreater(len(self.queue.markers), 1)

    def test_detached(self) -> None:
        """A marker of a lost connection is ignored on the next one."""
        self.request(1)
        self.look(2)
        self.census.detach()
        self.marker()
        self.assertEqual(self.put_back(), [])
        self.successResultOf(Deferred.fromCoroutine(self.census.attach(cast("Any", object()))))


class Missing(CensusTestCase):
    def test_put_back(self) -> None:
        """Tasks that were open before the marker, and are not held when it arrives, are put back in
        the journal's order.
        """
        self.request(1, 2, 3)
        self.look(2)
        self.request(4)
        self.hold(2)
        self.marker()
        self.assertEqual((self.put_back(), self.repairs), ([1, 3], 1))

    def test_another_marker(self) -> None:
        """Markers of other workers, and markers before the newest one, are ignored."""
        self.request(1)
        self.look(2)
        self.clock.pump([LOOK_S] * 10)
        self.census.on_marker("theirs")
        self.census.on_marker(self.queue.markers[0])
        self.assertEqual(self.put_back(), [])

    def test_a_copy_behind_the_marker(self) -> None:
        """A task with a copy that was published after the marker is not missing. A task whose copy
        was published before the marker is.
        """
        self.request(1, 2)
        self.queue.put(task_id(1), b"", {})
        self.look(2)
        self.queue.put(task_id(2), b"", {})
        self.queue.put_back.clear()
        self.marker()
        self.assertEqual(self.put_back(), [1])

    def test_once(self) -> None:
        """A task is not put back again while its copy may still arrive."""
        self.request(1)
        self.look(2)
        self.marker()
        self.hold(1)
        self.look(100)
        self.assertEqual(self.put_back(), [1])

    def test_ended(self) -> None:
        """A task that has ended before the barrier is not missing."""
        self.request(1)
        self.look(2)
        self.journal.barrier = self.end_during_the_barrier  # type: ignore[method-assign] # the task ends during the barrier
        self.marker()
        self.assertEqual((self.put_back(), self.repairs), ([], 0))

    def end_during_the_barrier(self) -> Deferred[None]:
        self.replica.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        return succeed(None)

    def test_without_an_order(self) -> None:
        """A task whose order is in neither queue nor journal has failed after this was found
        several times.
        """
        self.request(1)
        self.journal.orders.clear()
        for times in range(1, SURE_AFTER + 1):
            self.assertIs(self.replica.store.state(task_id(1)), State.RUNNING)
            while len(self.queue.markers) < times:
                self.look()
            self.marker()
        self.assertIs(self.replica.store.state(task_id(1)), State.FAILED)
        self.assertEqual(self.put_back(), [])

    def test_cancelled(self) -> None:
        """A marker also shows that the message of a cancelled task is gone."""
        self.request(1, 2)
        self.replica.apply(Cancelled(task_id(1), "DEVICE1", EPOCH))
        self.replica.apply(Cancelled(task_id(2), "DEVICE1", EPOCH))
        self.look(2)
        self.hold(2)
        self.marker()
        self.assertEqual(list(self.replica.open_tasks.cancelled), [task_id(2)])

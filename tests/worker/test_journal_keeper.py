"""The journal keeper: open tasks, cancellations and ends are written again before they expire, and
all tasks if the journal was lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import BrokerUnavailable
from rtprov.journal.store import Store
from rtprov.messaging.event_batches import encode_batch, events_in
from rtprov.messaging.event_messages import decode_event, decode_task, encode_event, encode_task
from rtprov.model import Cancelled, Event, Finished, Postponed, Requested, Started, State, Task
from rtprov.worker.journal_keeper import LOOK_S, JournalKeeper
from tests.support.fakes import FakeDelivery, FakeReplica, PlainSealer

EPOCH = 1_800_000_000.0
AGE_S = 86400.0


def task_id(number: int) -> str:
    return f"{number:032x}"


class Stream:
    """A journal whose messages below offset `first` have expired. Its replica has seen all
    messages.
    """

    def __init__(self, replica: FakeReplica) -> None:
        self.replica = replica
        self.bodies: list[bytes] = []
        self.first = 0
        self.up = True

    def append(self, event: Event) -> Deferred[None]:
        return self.append_message(encode_event(event))

    def append_message(self, body: bytes) -> Deferred[None]:
        if not self.up:
            return Deferred()
        self.bodies.append(body)
        for event in events_in(body):
            self.replica.offset = len(self.bodies) - 1
            self.replica.apply(decode_event(event))
        return succeed(None)

    def barrier(self) -> Deferred[None]:
        return succeed(None)

    async def read(self, connection: Any, offsets: Iterable[int]) -> dict[int, FakeDelivery]:
        return {each: FakeDelivery(self.bodies[each]) for each in offsets if each >= self.first}

    def events(self, first: int = 0) -> list[Event]:
        return [decode_event(event) for body in self.bodies[first:] for event in events_in(body)]


class Presence:
    consuming = True


class Worker:
    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def messages(self) -> dict[str, bytes]:
        return self.held


class KeeperTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.worker, self.presence = Worker(), Presence()
        self.start()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(lambda: self.keeper.detach())

    def wall_clock(self) -> float:
        return EPOCH + self.clock.seconds()

    def start(self) -> None:
        """Start a worker with an empty replica and journal."""
        self.store = Store(1000.0)
        self.stream = Stream(FakeReplica(self.store))
        self.keeper = self.make()
        self.attach()

    def make(self) -> JournalKeeper:
        return JournalKeeper(
            name="journal",
            store=self.store,
            open_tasks=self.stream.replica.open_tasks,
            journal=cast("Any", self.stream),
            reader=cast("Any", self.stream),
            presence=cast("Any", self.presence),
            worker=cast("Any", self.worker),
            max_age_s=AGE_S,
            clock=cast("Any", self.clock),
            wall_clock=self.wall_clock,
        )

    def attach(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.keeper.attach(cast("Any", object()))))

    def order(self, number: int) -> bytes:
        return encode_task(
            Task(
                task_id(number),
                "DEVICE1",
                14,
                self.wall_clock(),
                PlainSealer().seal(b"%d" % number),
            )
        )

    def request(self, *numbers: int) -> None:
        for number in numbers:
            self.stream.append_message(self.order(number))

    def pass_(self, seconds: float) -> None:
        self.clock.pump([LOOK_S] * int(seconds / LOOK_S))

    def replayed(self) -> Store:
        """Return the store of a worker that reads the messages that have not expired."""
        replica = FakeReplica(Store(1000.0), offset=self.stream.first)
        for event in self.stream.events(self.stream.first):
            replica.apply(event)
        self.row = replica.open_tasks
        return replica.store


class OpenTasks(KeeperTestCase):
    def test_at_half_the_age(self) -> None:
        """The events of an open task are written again at half of the journal's age, and again
        after another half.
        """
        self.request(1)
        self.stream.append(Started(task_id(1), "DEVICE1", EPOCH + 1.0, 1, "p1"))
        self.stream.append(Postponed(task_id(1), "DEVICE1", EPOCH + 2.0, 1, "refused", EPOCH + 3.0))
        self.pass_(AGE_S / 2)
        self.assertEqual(len(self.stream.bodies), 3)
        self.pass_(2 * LOOK_S)
        self.assertEqual(len(self.stream.bodies), 6)
        before = self.store.details(task_id(1), None, 0.0)
        self.stream.first = 3
        self.assertEqual(self.replayed().details(task_id(1), None, 0.0), before)
        self.assertEqual(decode_task(self.stream.bodies[-1]), decode_task(self.stream.bodies[0]))
        self.pass_(AGE_S / 2)
        self.assertEqual(len(self.stream.bodies), 9)

    def test_thirty_days(self) -> None:
        """After thirty days with a journal that keeps one day, the open tasks of a device and their
        order are known. The ended task has expired.
        """
        self.request(1, 2, 3, 4)
        self.stream.append(Finished(task_id(2), "DEVICE1", EPOCH, State.COMPLETED, ""))
        for _ in range(60):
            length = len(self.stream.bodies)
            self.pass_(AGE_S / 2)
            # All but the last few messages from before this half have expired.
            self.stream.first = max(0, length - 6)
        store = self.replayed()
        self.assertEqual(
            [store.state(task_id(number)) for number in (1, 2, 3, 4)],
            [State.RUNNING, None, State.RUNNING, State.RUNNING],
        )
        self.assertEqual(
            [self.row.is_first_of_device(task_id(number), "DEVICE1") for number in (1, 3, 4)],
            [True, False, False],
        )

    def test_a_standby(self) -> None:
        """A standby writes events at three quarters of the age, if no active worker has written
        them at half of it.
        """
        self.presence.consuming = False
        self.request(1)
        self.pass_(AGE_S * 3 / 4)
        self.assertEqual(len(self.stream.bodies), 1)
        self.pass_(2 * LOOK_S)
        self.assertEqual(len(self.stream.bodies), 2)

    def test_ended_meanwhile(self) -> None:
        """If a task ends while its events are written again, its end is written again after
        them.
        """
        self.request(1)
        append_message = self.stream.append_message

        def end_first(body: bytes) -> Deferred[None]:
            self.stream.append_message = append_message  # type: ignore[method-assign] # the method is put back
            self.stream.append(
                Finished(task_id(1), "DEVICE1", EPOCH + 9.0, State.COMPLETED, "A answered 200")
            )
            return append_message(body)

        self.stream.append_message = end_first  # type: ignore[method-assign] # the task ends before the append
        self.pass_(AGE_S / 2 + 2 * LOOK_S)
        self.assertEqual(
            [type(event) for event in self.stream.events()],
            [Requested, Finished, Requested, Finished],
        )
        self.stream.first = 2
        self.assertIs(self.replayed().state(task_id(1)), State.COMPLETED)

    def test_without_a_request(self) -> None:
        """If the journal has no request for a task, the keeper writes what the store knows, once in
        each half of the age.
        """
        self.stream.append(Started(task_id(1), "DEVICE1", EPOCH, 3, "p1"))
        self.pass_(AGE_S / 2 + 10 * LOOK_S)
        self.assertLessEqual(len(self.stream.bodies), 4)

    def test_a_batch(self) -> None:
        """Of a batch, the keeper writes only the events of the open task again."""
        self.request(1, 2)
        events = [Started(task_id(number), "DEVICE1", EPOCH, 1, "p1") for number in (1, 2)]
        self.stream.append_message(encode_batch([encode_event(event) for event in events]))
        self.stream.append(Finished(task_id(2), "DEVICE1", EPOCH, State.COMPLETED, ""))
        self.pass_(AGE_S / 2 + 2 * LOOK_S)
        again = self.stream.events(4)
        self.assertEqual([type(event) for event in again], [Started, Requested])
        self.assertEqual(again[0], events[0])

    def test_the_connection_goes(self) -> None:
        """Writing stops when the connection is lost, and is done again on the next one."""
        self.request(1)
        self.stream.up = False
        self.pass_(AGE_S / 2 + 2 * LOOK_S)
        self.keeper.detach()
        self.stream.up = True
        self.attach()
        self.pass_(2 * LOOK_S)
        self.assertEqual(len(self.stream.bodies), 2)

    def test_a_broker_that_fails(self) -> None:
        """If the barrier fails, the keeper tries again at the next look."""
        self.request(1)
        barrier, self.stream.barrier = self.stream.barrier, lambda: fail(BrokerUnavailable("away"))  # type: ignore[method-assign] # a fault is injected here
        self.pass_(AGE_S / 2 + 2 * LOOK_S)
        self.stream.barrier = barrier  # type: ignore[method-assign] # the method is put back
        self.pass_(LOOK_S)
        self.assertEqual(self.replayed().state(task_id(1)), State.RUNNING)


class Ends(KeeperTestCase):
    def test_cancellations(self) -> None:
        """A cancellation is written again, and the store keeps it, as long as the task's message
        may be in the queue.
        """
        self.request(1)
        self.stream.append(Cancelled(task_id(1), "DEVICE1", EPOCH))
        self.pass_(30 * AGE_S)
        self.assertEqual(self.store.expire(self.wall_clock(), self.keeper.keeps), 0)
        self.stream.first = len(self.stream.bodies) - 2
        self.assertIs(self.replayed().state(task_id(1)), State.CANCELLED)
        self.stream.replica.open_tasks.messages_gone(1, ())
        self.assertEqual(self.store.expire(self.wall_clock(), self.keeper.keeps), 1)
        length = len(self.stream.bodies)
        self.pass_(AGE_S)
        self.assertEqual(len(self.stream.bodies), length)

    def test_cancellations_of_a_standby(self) -> None:
        """A standby forgets a cancellation that no worker has written again."""
        self.presence.consuming = False
        self.request(1)
        self.stream.append(Cancelled(task_id(1), "DEVICE1", EPOCH))
        self.pass_(AGE_S + 2 * LOOK_S)
        self.assertEqual((len(self.stream.bodies), self.keeper.keeps(task_id(1))), (2, False))

    def test_what_stands_behind_an_end(self) -> None:
        """If an event of a task follows its end, the end is written again."""
        self.request(1)
        self.stream.append(Finished(task_id(1), "DEVICE1", EPOCH, State.FAILED, "A answered 500"))
        self.stream.append(Started(task_id(1), "DEVICE1", EPOCH, 1))
        self.pass_(LOOK_S)
        end = Finished(task_id(1), "DEVICE1", EPOCH, State.FAILED, "A answered 500")
        self.assertEqual((self.stream.events()[-1], len(self.stream.bodies)), (end, 4))
        self.pass_(10 * LOOK_S)
        self.assertEqual(len(self.stream.bodies), 4)


class Lost(KeeperTestCase):
    def test_all_is_told(self) -> None:
        """All known tasks are written to a new journal: those that have ended, and open ones, with
        their orders if the worker has them.
        """
        self.request(1, 2, 3)
        self.stream.append(
            Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, "A answered 200")
        )
        for attempt in (1, 2):
            self.stream.append(Started(task_id(2), "DEVICE1", EPOCH + attempt, attempt, "p1"))
            self.stream.append(
                Postponed(task_id(2), "DEVICE1", EPOCH + attempt, attempt, "refused", EPOCH + 3.0)
            )
        self.request(4)
        self.stream.append(Cancelled(task_id(4), "DEVICE1", EPOCH))
        self.worker.held = {task_id(2): self.order(2)}
        known = [self.store.details(task_id(number), None, 0.0) for number in (1, 2, 3, 4)]
        self.keeper.detach()
        self.stream.replica.open_tasks.journal_lost()
        self.keeper.journal_lost()
        self.stream.bodies.clear()
        self.stream.replica.offset = 0
        self.request(5)
        self.attach()
        store = self.replayed()
        for details in known:
            assert details is not None
            told = store.details(details.task_id, None, 0.0)
            assert told is not None
            self.assertEqual(
                (told.state, told.requested_at, told.attempt_count),
                (details.state, details.requested_at, details.attempt_count),
            )
        self.assertEqual(
            [self.row.is_first_of_device(task_id(number), "DEVICE1") for number in (2, 3, 5)],
            [True, False, False],
        )
        first, second = self.row.get(task_id(2)), self.row.get(task_id(3))
        assert first is not None and second is not None
        self.assertEqual((first.request is None, second.request is None), (False, True))

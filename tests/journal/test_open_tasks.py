"""What is known of open tasks: their order, their offsets in the journal, and which are in no
queue.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.journal.open_tasks import KEPT_FIRST, KEPT_LAST, OpenTasks
from rtprov.journal.store import Store
from rtprov.messaging.markers import JOURNAL_SPAN
from rtprov.model import Cancelled, Copied, Finished, Requested, Started, State, TaskEvent

DEVICE = "ABC123456"


def task_id(number: int) -> str:
    return f"{number:032x}"


def requested(number: int, at: float = 1.0, copied: Copied | None = None) -> Requested:
    return Requested(task_id(number), DEVICE, at, whole=True, copied=copied)


def started(number: int, attempt: int = 1) -> Started:
    return Started(task_id(number), DEVICE, 2.0, attempt)


def finished(number: int) -> Finished:
    return Finished(task_id(number), DEVICE, 3.0, State.COMPLETED, "")


def cancelled(number: int, copied: Copied | None = None) -> Cancelled:
    return Cancelled(task_id(number), DEVICE, 3.0, copied=copied)


class OpenTasksTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.start()

    def start(self) -> None:
        """Make a replica without events."""
        self.store, self.tasks = Store(1000.0), OpenTasks()

    def read(self, *events: TaskEvent, offset: int = 0) -> None:
        """Read these events of the journal, from an offset on."""
        for each, event in enumerate(events, offset):
            self.store.apply(event)
            self.tasks.on_event(event, each, self.store.state(event.task_id))

    def order(self, numbers: Sequence[int]) -> list[int]:
        """Return which of these may go now."""
        return [
            number
            for number in numbers
            if task_id(number) in self.tasks
            and self.tasks.is_first_of_device(task_id(number), DEVICE)
        ]

    def missing(self, before: int, *held: int) -> list[int]:
        return [
            int(task.task_id, 16)
            for task in self.tasks.missing(before, {task_id(number) for number in held})
        ]


class Order(OpenTasksTestCase):
    def test_one_after_the_other(self) -> None:
        """Of a device's open tasks only the first may go. A task that is not open never waits."""
        self.read(requested(1), requested(2), requested(3))
        self.assertEqual(self.order([1, 2, 3]), [1])
        self.read(cancelled(1), offset=3)
        self.assertEqual(self.order([1, 2, 3]), [2])
        self.read(finished(2), finished(3), offset=4)
        self.assertEqual(
            (len(self.tasks), self.tasks.is_first_of_device(task_id(3), DEVICE)), (0, True)
        )

    def test_other_devices(self) -> None:
        """Devices do not wait for one another."""
        self.read(requested(1), Requested(task_id(2), "OTHER1", 1.0))
        self.assertTrue(self.tasks.is_first_of_device(task_id(2), "OTHER1"))

    @given(
        st.integers(min_value=1, max_value=6),
        st.lists(st.integers(min_value=0, max_value=5), max_size=6),
        st.integers(min_value=0, max_value=11),
    )
    def test_copies_keep_their_places(self, count: int, copies: list[int], forgotten: int) -> None:
        """Copies of open tasks have the order of their first events, even if the journal has
        forgotten those.
        """
        self.start()
        numbers = list(range(count))
        journal: list[TaskEvent] = [requested(number) for number in numbers]
        self.read(*journal)
        for number in (each % count for each in copies):
            journal.append(requested(number, copied=Copied(9.0, number, len(journal) - 1)))
            self.read(journal[-1], offset=len(journal) - 1)
        self.assertEqual(self.order(numbers), numbers[:1])
        forgotten = min(forgotten, len(journal) - 1)
        self.start()
        self.read(*journal[forgotten:], offset=forgotten)
        left = sorted({int(event.task_id, 16) for event in journal[forgotten:]})
        for number in left:
            self.assertEqual(self.order(left), [number])
            self.read(finished(number), offset=len(journal))


class Offsets(OpenTasksTestCase):
    def test_of_a_task(self) -> None:
        """The offsets of a task's events are known, and which of them has its body."""
        self.read(started(1), requested(1), requested(1), started(1, 2))
        task = self.tasks.get(task_id(1))
        assert task is not None
        self.assertEqual(
            (task.place, task.request, task.offsets, task.written_at), (0, 1, [0, 1, 3], 2.0)
        )

    def test_copied(self) -> None:
        """A copy takes the place of the original. Events between them keep theirs."""
        self.read(
            requested(1),
            started(1),
            started(1, 2),
            started(1, 3),
            started(1),
            requested(1, copied=Copied(9.0, 0, 2)),
        )
        task = self.tasks.get(task_id(1))
        assert task is not None
        self.assertEqual(
            (task.place, task.request, task.offsets, task.written_at), (0, 5, [5, 3, 4], 9.0)
        )

    def test_first_and_last_of_many(self) -> None:
        """Of very many events of a task the first and the last are known."""
        self.read(requested(1), *(started(1, attempt) for attempt in range(1, 1000)))
        task = self.tasks.get(task_id(1))
        assert task is not None
        self.assertEqual(
            (len(task.offsets), task.offsets[KEPT_FIRST - 1], task.offsets[-KEPT_LAST]),
            (200, 19, 1000 - KEPT_LAST),
        )

    def test_when_the_journal_began(self) -> None:
        """The journal began with its first event or, if that is a copy, with its original."""
        self.read(requested(1, 5.0), requested(2, 1.0))
        self.assertEqual(self.tasks.began_at, 5.0)
        self.start()
        self.read(requested(1, 5.0, Copied(9.0, 0, 0)))
        self.assertEqual(self.tasks.began_at, 9.0)

    def test_another_journal(self) -> None:
        """Known tasks come before all tasks in a new journal, and have no offsets until the new
        journal has their events.
        """
        self.read(requested(1), requested(2))
        self.tasks.journal_lost()
        self.read(requested(3), requested(2), requested(1, copied=Copied(9.0, -JOURNAL_SPAN, -1)))
        first, second = self.tasks.get(task_id(1)), self.tasks.get(task_id(2))
        assert first is not None and second is not None
        self.assertEqual((first.request, second.request, self.order([1, 2, 3])), (2, 1, [1]))


class Ends(OpenTasksTestCase):
    def test_what_stands_behind_an_end(self) -> None:
        """If a task has an event after its end, the end is to be published again."""
        self.read(requested(1), finished(1), requested(1))
        self.assertEqual((list(self.tasks.ends_to_repeat), len(self.tasks)), ([task_id(1)], 0))
        self.read(finished(1), offset=3)
        self.assertEqual(list(self.tasks.ends_to_repeat), [])

    def test_a_plain_end(self) -> None:
        """A repeated end changes nothing."""
        self.read(requested(1), finished(1), finished(1), cancelled(1))
        self.assertEqual((list(self.tasks.ends_to_repeat), self.tasks.cancelled), ([], {}))


class Missing(OpenTasksTestCase):
    def test_missing(self) -> None:
        """A task is missing if it is open, stands before the given offset, and is not held. Missing
        tasks are in the journal's order.
        """
        self.read(requested(3), requested(1), requested(2), requested(4), requested(5))
        self.assertEqual(self.missing(4, 1), [3, 2, 4])
        self.read(finished(2), offset=5)
        self.assertEqual(self.missing(4, 1), [3, 4])
        self.assertEqual((self.missing(0), self.tasks.any_missing(0, ())), ([], False))

    def test_cancelled(self) -> None:
        """The message of a cancelled task counts as being in a queue until it is known to
        be gone.
        """
        self.read(requested(1), requested(2), cancelled(1), cancelled(2))
        self.assertTrue(self.tasks.any_missing(9, ()))
        self.tasks.messages_gone(9, {task_id(2)})
        self.assertEqual(list(self.tasks.cancelled), [task_id(2)])
        self.tasks.messages_gone(9, ())
        self.assertFalse(self.tasks.any_missing(9, ()))

    def test_a_cancellation_alone(self) -> None:
        """A cancellation without its request is remembered too, and its copy keeps its place."""
        self.read(cancelled(1), offset=7)
        self.read(cancelled(1, Copied(99.0, 3, 7)), offset=8)
        self.assertEqual(
            (self.tasks.cancelled[task_id(1)].place, self.tasks.cancelled[task_id(1)].written_at),
            (3, 99.0),
        )

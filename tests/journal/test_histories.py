"""What the store derives from keys, cancellations and attempts, and what it returns about them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.journal.store import Store
from rtprov.model import (
    Attempt,
    Cancelled,
    Details,
    Event,
    Finished,
    Postponed,
    Requested,
    Started,
    State,
    Waiting,
    Withheld,
)
from tests.support.journal_folds import DEVICE, RETENTION_S, all_of, fold, task_id


class Keys(SynchronousTestCase):
    """Tasks with an ``Idempotency-Key``, whose ids can be used again."""

    def requested(self, at: float, fingerprint: str = "f1") -> Requested:
        return Requested(task_id(1), DEVICE, at, fingerprint)

    def finished(self, at: float, state: State = State.COMPLETED) -> Finished:
        return Finished(task_id(1), DEVICE, at, state, "")

    def over(self, store: Store, at: float, fingerprint: str | None = "f1") -> bool | None:
        return store.needs_no_call(task_id(1), fingerprint, at)

    def test_the_first_order_counts(self) -> None:
        """Of two requests with one key, the first in the journal is the task. The other message
        counts as done.
        """
        store = fold([self.requested(10.0, "f1"), self.requested(5.0, "f2")])
        self.assertEqual([self.over(store, 10.0, each) for each in ("f1", "f2")], [False, True])
        store.apply(self.finished(20.0))
        self.assertEqual([self.over(store, 10.0, each) for each in ("f1", "f2")], [True, True])

    def test_not_told(self) -> None:
        """The store does not know whether a message is done before the journal has an event of its
        task or, with a key, its request.
        """
        self.assertEqual(
            [self.over(fold([]), 1.0, fingerprint) for fingerprint in ("f1", None)], [None, None]
        )
        begun = fold([Started(task_id(1), DEVICE, 5.0, 1)])
        self.assertEqual(
            [self.over(begun, 1.0, fingerprint) for fingerprint in ("f1", None)], [None, False]
        )

    def test_within_the_retention(self) -> None:
        """A request up to half an hour after the retention changes nothing."""
        at = 20.0 + RETENTION_S + 1800.0
        store = fold([self.requested(10.0), self.finished(20.0), self.requested(at)])
        self.assertTrue(store.finished(task_id(1)))
        self.assertIs(self.over(store, at), True)

    def test_clocks_that_differ(self) -> None:
        """A worker whose clock is half an hour behind the front end's still ends the task."""
        store = fold(
            [self.requested(5000.0), Started(task_id(1), DEVICE, 3200.0, 1), self.finished(3260.0)]
        )
        self.assertEqual((store.attempts(task_id(1)), store.finished(task_id(1))), (1, True))

    def test_behind_the_retention(self) -> None:
        """A later request starts a new task without a history. Its message is not done before the
        journal has the request.
        """
        at = 20.0 + RETENTION_S + 1800.5
        store = fold([self.requested(10.0), self.finished(20.0)])
        self.assertIsNone(self.over(store, at, "f2"))
        store.apply(self.requested(at, "f2"))
        self.assertEqual(
            (store.lookup(task_id(1), DEVICE), store.attempts(task_id(1)), len(store)),
            (State.RUNNING, 0, 1),
        )
        self.assertIs(self.over(store, at, "f2"), False)

    def test_kept_longer(self) -> None:
        """A replica keeps tasks an hour longer, so that clocks that differ by less cannot make two
        replicas disagree.
        """
        store = fold([self.requested(10.0), self.finished(20.0)])
        self.assertEqual(store.expire(20.0 + RETENTION_S + 3599.0), 0)
        self.assertEqual(store.expire(20.0 + RETENTION_S + 3601.0), 1)

    @given(st.data())
    def test_read_again(self, data: st.DataObject) -> None:
        """Replaying the journal of a key that was used several times, from any point, changes
        nothing. Forgotten ends do no harm.
        """
        history: list[Event] = []
        at = 10.0
        for number in range(data.draw(st.integers(min_value=1, max_value=4))):
            history += [self.requested(at, f"f{number}"), self.requested(at + 1.0, "other")]
            attempts = data.draw(st.integers(min_value=0, max_value=2))
            history += [
                Started(task_id(1), DEVICE, at + 2.0, attempt) for attempt in range(1, attempts + 1)
            ]
            history.append(
                self.finished(at + 3.0, data.draw(st.sampled_from([State.COMPLETED, State.FAILED])))
            )
            at += 1803.0 + RETENTION_S + data.draw(st.floats(min_value=1.0, max_value=1000.0))
        history = history[: data.draw(st.integers(min_value=1, max_value=len(history)))]
        store = fold(history)
        expected = all_of(store)
        for event in history[data.draw(st.integers(min_value=0, max_value=len(history))) :]:
            store.apply(event)
        self.assertEqual(all_of(store), expected)
        store.expire(at + 1e9)
        self.assertEqual(len(store), 0 if isinstance(history[-1], Finished) else 1)


class Withholding(SynchronousTestCase):
    def test_read_again(self) -> None:
        """Replaying the events of a task that waited for its key counts no second twice, whether or
        not the wait is over.
        """
        waits: list[Event] = [
            Withheld(task_id(1), DEVICE, 10.0, "k"),
            Withheld(task_id(1), DEVICE, 15.0, "k", over=True),
            Withheld(task_id(1), DEVICE, 20.0, "k"),
        ]
        begun: list[Event] = [
            Requested(task_id(1), DEVICE, 1.0),
            Started(task_id(1), DEVICE, 2.0, 1),
        ]
        for events, waited_s in ((waits[:2], 5.0), (waits, 15.0)):
            store = fold([*begun, *events, *begun, *events, *events])
            self.assertEqual(store.withheld_s(task_id(1), 30.0), waited_s)


class Cancelling(SynchronousTestCase):
    def test_before_the_first_start(self) -> None:
        """A task that is cancelled before its start stays cancelled. A later start has no
        effect.
        """
        store = fold(
            [
                Requested(task_id(1), DEVICE, 1.0),
                Cancelled(task_id(1), DEVICE, 2.0),
                Started(task_id(1), DEVICE, 2.0, 1),
            ]
        )
        self.assertEqual(
            (store.lookup(task_id(1), DEVICE), store.attempts(task_id(1))), (State.CANCELLED, 0)
        )
        store.apply(Finished(task_id(1), DEVICE, 3.0, State.COMPLETED, ""))
        self.assertEqual(store.lookup(task_id(1), DEVICE), State.CANCELLED)

    def test_behind_the_first_start(self) -> None:
        """A cancellation after the start has no effect, whatever the times in the events."""
        events: list[Event] = [
            Requested(task_id(1), DEVICE, 1.0),
            Started(task_id(1), DEVICE, 5.0, 1),
        ]
        self.assertEqual(
            all_of(fold([*events, Cancelled(task_id(1), DEVICE, 2.0)])), all_of(fold([*events]))
        )

    def test_forgotten(self) -> None:
        """A cancelled task is remembered for another week: its message may still be in the queue,
        and must not be taken for a new task.
        """
        store = fold([Requested(task_id(1), DEVICE, 1.0), Cancelled(task_id(1), DEVICE, 2.0)])
        last = 2.0 + 7 * 86400.0 + RETENTION_S
        self.assertEqual(
            (store.expire(last), store.finished(task_id(1)), store.expire(last + 1.0)), (0, True, 1)
        )


class Told(SynchronousTestCase):
    """Details and lists of tasks."""

    def details(self, store: Store, number: int = 1, now: float = 100.0) -> Details:
        found = store.details(task_id(number), None, now)
        assert found is not None
        return found

    def test_of_whom(self) -> None:
        """A task's details are found with its equipment, or without any equipment."""
        store = fold([Requested(task_id(1), DEVICE, 1.0)])
        self.assertIsNone(store.details(task_id(1), "DEF456789", 1.0))
        self.assertIsNone(store.details(task_id(2), None, 1.0))
        self.assertEqual(
            store.details(task_id(1), DEVICE, 1.0), store.details(task_id(1), None, 1.0)
        )

    def test_queued(self) -> None:
        """The first task of a device waits for a free slot, the next ones for the device. Cancelled
        tasks delay no other.
        """
        store = fold([Requested(task_id(number), DEVICE, float(number)) for number in range(1, 5)])
        store.apply(Cancelled(task_id(2), DEVICE, 5.0))
        waits = [
            (each.waits_for, each.ahead)
            for each in (self.details(store, number) for number in range(1, 5))
        ]
        self.assertEqual(
            waits, [(Waiting.CONCURRENCY, 0), (None, 0), (Waiting.DEVICE, 1), (Waiting.DEVICE, 2)]
        )
        self.assertEqual(
            [self.details(store, number).expected_at for number in (1, 2, 3, 4)],
            [160.0, None, 220.0, 280.0],
        )

    def test_running(self) -> None:
        """While a call runs, its end is estimated from the durations of earlier calls, and those of
        the tasks behind it from that.
        """
        store = fold(
            [
                Requested(task_id(1), DEVICE, 1.0),
                Requested(task_id(2), DEVICE, 2.0),
                Started(task_id(1), DEVICE, 90.0, 1),
            ]
        )
        running = self.details(store)
        self.assertEqual(
            (running.waits_for, running.attempts, running.expected_at),
            (None, (Attempt(1, 90.0),), 150.0),
        )
        self.assertEqual(self.details(store, 2).expected_at, 210.0)
        self.assertEqual(self.details(store, now=1000.0).expected_at, 1000.0 + 850.0)

    def test_postponed(self) -> None:
        """Attempts that did not reach A are listed with their errors, and with the time of the next
        attempt if it is in the future.
        """
        events: list[Event] = [Requested(task_id(1), DEVICE, 1.0)]
        for number in (1, 2):
            at = 10.0 * number
            events += [
                Started(task_id(1), DEVICE, at, number),
                Postponed(task_id(1), DEVICE, at + 1, number, "refused", 120.0),
            ]
        waiting = self.details(fold(events))
        self.assertEqual(
            waiting.attempts,
            (Attempt(1, 10.0, 11.0, "refused"), Attempt(2, 20.0, 21.0, "refused", 120.0)),
        )
        self.assertEqual(
            (waiting.waits_for, waiting.attempt_count, waiting.expected_at),
            (Waiting.SERVICE, 2, 180.0),
        )
        overdue = self.details(fold(events), now=130.0)
        self.assertEqual(
            (overdue.attempts[-1].retry_at, overdue.waits_for, overdue.expected_at),
            (None, Waiting.SERVICE, 190.0),
        )
        again = self.details(fold([*events, Started(task_id(1), DEVICE, 120.0, 3)]), now=130.0)
        self.assertEqual(
            (again.waits_for, again.attempts[-1], again.expected_at),
            (None, Attempt(3, 120.0), 180.0),
        )

    def test_a_long_row(self) -> None:
        """At most 500 tasks are counted as ahead, but the estimated end uses all of them."""
        store = fold([Requested(task_id(number), DEVICE, 1.0) for number in range(1, 3001)])
        store.apply(Started(task_id(1), DEVICE, 90.0, 1))
        near, far = self.details(store, 500), self.details(store, 3000)
        self.assertEqual((near.ahead, near.expected_at), (499, 150.0 + 499 * 60.0))
        self.assertEqual((far.ahead, far.expected_at), (500, 150.0 + 2999 * 60.0))

    @given(
        st.lists(st.sampled_from(["waits", "runs", "ended", "cancelled"]), max_size=12),
        st.integers(min_value=1, max_value=12),
    )
    def test_one_by_one_or_together(self, states: list[str], limit: int) -> None:
        """A list has the same data for each task as its own details."""
        store = Store(RETENTION_S)
        for number, state in enumerate(states):
            store.apply(Requested(task_id(number), DEVICE, float(number)))
            if state in ("runs", "ended"):
                store.apply(Started(task_id(number), DEVICE, 50.0 + number, 1))
            if state == "ended":
                store.apply(Finished(task_id(number), DEVICE, 80.0 + number, State.COMPLETED, ""))
            if state == "cancelled":
                store.apply(Cancelled(task_id(number), DEVICE, 80.0))
        listed = store.tasks_of(DEVICE, None, limit, 100.0)
        self.assertEqual(listed, [store.details(each.task_id, DEVICE, 100.0) for each in listed])

    def test_a_row_of_cancelled_tasks(self) -> None:
        """At most a thousand tasks ahead are examined, including cancelled ones."""
        store = fold([Requested(task_id(number), DEVICE, 1.0) for number in range(1, 3001)])
        for number in {*range(2, 3000)} - {900}:
            store.apply(Cancelled(task_id(number), DEVICE, 2.0))
        self.assertEqual([self.details(store, number).ahead for number in (900, 3000)], [1, 0])

    def test_places(self) -> None:
        """The journal's order is returned for tasks of all devices."""
        store = fold(
            [Requested(task_id(number), f"{DEVICE}{number % 2}", 1.0) for number in range(1, 9)]
        )
        places = store.places([task_id(number) for number in (8, 2, 5, 1, 99)])
        self.assertEqual(sorted(places), sorted(task_id(number) for number in (8, 2, 5, 1)))
        self.assertTrue(
            places[task_id(2)] < places[task_id(8)] and places[task_id(1)] < places[task_id(5)]
        )

    def test_many_attempts(self) -> None:
        """The last ten attempts are kept, three once the task has ended. All are counted."""
        events: list[Event] = [
            Started(task_id(1), DEVICE, float(number), number) for number in range(1, 31)
        ]
        self.assertEqual(
            [each.number for each in self.details(fold(events)).attempts], list(range(21, 31))
        )
        ended = self.details(
            fold([*events, Finished(task_id(1), DEVICE, 50.0, State.FAILED, "out of patience")])
        )
        self.assertEqual([each.number for each in ended.attempts], [28, 29, 30])
        self.assertEqual(
            (ended.attempt_count, ended.reason, ended.finished_at, ended.expected_at),
            (30, "out of patience", 50.0, None),
        )

    def test_the_last_attempt(self) -> None:
        """The last attempt ends with its task. If the task did not complete, its reason is the
        attempt's error.
        """
        started: list[Event] = [
            Requested(task_id(1), DEVICE, 1.0),
            Started(task_id(1), DEVICE, 10.0, 1),
        ]
        for state, error in (
            (State.COMPLETED, None),
            (State.FAILED, "A answered 500"),
            (State.NOT_FOUND, "A answered 500"),
        ):
            ended = self.details(
                fold([*started, Finished(task_id(1), DEVICE, 70.0, state, "A answered 500")])
            )
            self.assertEqual(ended.attempts, (Attempt(1, 10.0, 70.0, error),))

    def test_durations_are_learned(self) -> None:
        """The expected duration of a call is the median of the latest calls, whatever their
        results. Before the first one it is a minute.
        """
        store = Store(1e9)
        for number in range(100):
            store.apply(Started(task_id(number), DEVICE, 1000.0 * number, 1))
            store.apply(
                Finished(task_id(number), DEVICE, 1000.0 * number + 10.0, State.COMPLETED, "")
            )
        store.apply(Started(task_id(500), DEVICE, 200_000.0, 1))
        self.assertAlmostEqual(self.details(store, 500, 200_000.0).expected_at or 0.0, 200_010.0, 0)

    def test_a_devices_tasks(self) -> None:
        """A device's tasks are listed newest first by the journal's order, page by page. Forgotten
        ones are left out.
        """
        store = fold(
            [
                Requested(task_id(number), DEVICE if number % 2 else "DEF456789", 100.0 - number)
                for number in range(10)
            ]
        )

        def listed(before: int | None, limit: int = 10) -> list[int]:
            found = store.tasks_of(DEVICE, None if before is None else task_id(before), limit, 1.0)
            return [int(each.task_id, 16) for each in found]

        self.assertEqual(
            (listed(None), listed(None, 2), listed(7, 2), listed(1)),
            ([9, 7, 5, 3, 1], [9, 7], [5, 3], []),
        )
        self.assertEqual((listed(8), listed(99)), ([], []))
        for number, left in ((5, [9, 7, 3, 1]), (9, [7, 3, 1]), (1, [7, 3]), (7, [3]), (3, [])):
            store.apply(Finished(task_id(number), DEVICE, 1.0, State.COMPLETED, ""))
            store.expire(1000.0)
            self.assertEqual(listed(None), left)
        self.assertEqual(len(store.tasks_of("DEF456789", None, 10, 1.0)), 5)

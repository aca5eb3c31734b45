"""The store as a fold over the journal, by examples and by laws."""

from __future__ import annotations

import tracemalloc

import attrs
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.journal.record import CANCELLED_SLACK_S, KEY_SLACK_S
from rtprov.journal.store import Store
from rtprov.model import (
    Cancelled,
    Event,
    Finished,
    Marker,
    Postponed,
    Requested,
    Started,
    State,
    Unrecognised,
    Withheld,
)
from tests.support.journal_folds import DEVICE, RETENTION_S, all_of, fold, task_id, view
from tests.support.scale import slow
from tests.support.strategies import task_events

# Few ids, so that a list of events has several events for each.
ONE = st.just(task_id(1))
A_FEW = st.integers(min_value=0, max_value=3).map(task_id)
histories = st.lists(
    st.one_of(
        task_events(A_FEW, st.just(DEVICE)),
        st.builds(Marker, st.just("m")),
        st.builds(Unrecognised, st.just("k")),
    )
)
own_events = st.lists(task_events(ONE, st.just(DEVICE)))


def one_after_the_other(events: list[Event]) -> list[Event]:
    """Return the same events at increasing times."""
    return [
        event if isinstance(event, (Marker, Unrecognised)) else attrs.evolve(event, at=float(at))
        for at, event in enumerate(events)
    ]


class TheWayOfATask(SynchronousTestCase):
    def test_unknown(self) -> None:
        """A task without an event is unknown."""
        self.assertEqual(view(fold([])), [0] + [None, False, None, 0] * 4)

    def test_requested(self) -> None:
        """A requested task is running for clients, without an attempt."""
        store = fold([Requested(task_id(1), DEVICE, 1.0)])
        self.assertEqual(store.lookup(task_id(1), DEVICE), State.RUNNING)
        self.assertFalse(store.finished(task_id(1)))
        self.assertIsNone(store.first_started_at(task_id(1)))
        self.assertEqual((store.attempts(task_id(1)), len(store)), (0, 1))

    def test_started(self) -> None:
        """The time of the first attempt and the number of the latest are kept."""
        store = fold(
            [
                Requested(task_id(1), DEVICE, 1.0),
                *(Started(task_id(1), DEVICE, 2.0 + attempt, attempt) for attempt in (1, 2, 3)),
            ]
        )
        self.assertEqual((store.first_started_at(task_id(1)), store.attempts(task_id(1))), (3.0, 3))
        self.assertEqual(store.lookup(task_id(1), DEVICE), State.RUNNING)

    def test_finished(self) -> None:
        """A finished task is in its final state."""
        for state in (State.COMPLETED, State.FAILED, State.NOT_FOUND):
            store = fold(
                [Requested(task_id(1), DEVICE, 1.0), Finished(task_id(1), DEVICE, 2.0, state, "")]
            )
            self.assertEqual(store.lookup(task_id(1), DEVICE), state)
            self.assertTrue(store.finished(task_id(1)))

    def test_other_equipment(self) -> None:
        """A task is found only with its own equipment."""
        store = fold([Requested(task_id(1), DEVICE, 1.0)])
        self.assertIsNone(store.lookup(task_id(1), "DEF456789"))
        self.assertIsNone(store.lookup(task_id(2), DEVICE))

    def test_beginning_lost(self) -> None:
        """A task whose first events have left the journal is known from its later events."""
        self.assertEqual(
            fold([Started(task_id(1), DEVICE, 5.0, 2)]).lookup(task_id(1), DEVICE), State.RUNNING
        )
        self.assertEqual(
            fold([Finished(task_id(1), DEVICE, 5.0, State.FAILED, "")]).lookup(task_id(1), DEVICE),
            State.FAILED,
        )

    def test_first_end_wins(self) -> None:
        """The first `Finished` counts, whatever a second one says and whatever its time."""
        ends = [
            Finished(task_id(1), DEVICE, at, state, "")
            for at, state in ((5.0, State.COMPLETED), (4.0, State.FAILED))
        ]
        self.assertEqual(fold([*ends]).lookup(task_id(1), DEVICE), State.COMPLETED)

    def test_begun_again_after_its_end(self) -> None:
        """A late `Requested` or `Started` does not change a finished task."""
        end = Finished(task_id(1), DEVICE, 5.0, State.COMPLETED, "")
        store = fold([end, Requested(task_id(1), DEVICE, 1.0), Started(task_id(1), DEVICE, 2.0, 1)])
        self.assertEqual(view(store), view(fold([end])))

    def test_events_of_no_task(self) -> None:
        """Markers and events of later versions change nothing."""
        self.assertEqual(len(fold([Marker("m"), Unrecognised("paused")])), 0)


class Laws(SynchronousTestCase):
    @given(
        own_events, st.sampled_from([State.COMPLETED, State.FAILED, State.NOT_FOUND]), own_events
    )
    def test_the_end_is_the_end(
        self, before: list[Event], state: State, after: list[Event]
    ) -> None:
        """No event after a task's end, in whatever order and however often, changes what can be
        read about it.
        """
        end: list[Event] = [*before, Finished(task_id(1), DEVICE, 5.0, state, "")]
        self.assertEqual(all_of(fold([*end, *after])), all_of(fold(end)))

    def test_withheld_comes_again(self) -> None:
        """A wait for a key has no effect after a later start."""
        events: list[Event] = [
            Requested(task_id(1), DEVICE, 1.0),
            Withheld(task_id(1), DEVICE, 2.0, "key"),
            Started(task_id(1), DEVICE, 3.0, 1),
        ]
        self.assertEqual(all_of(fold([*events, *events[1:]])), all_of(fold(events)))

    @given(histories, st.data())
    def test_duplicates(self, events: list[Event], data: st.DataObject) -> None:
        """Repeated events, single ones or a replay from any point, change nothing."""
        events = one_after_the_other(events)
        again = [
            event
            for event in events
            for _ in range(data.draw(st.integers(min_value=1, max_value=3)))
        ]
        self.assertEqual(all_of(fold(again)), all_of(fold(events)))
        replayed = events[data.draw(st.integers(min_value=0, max_value=len(events))) :]
        self.assertEqual(all_of(fold([*events, *replayed])), all_of(fold(events)))

    @given(histories)
    def test_final_states_stay(self, events: list[Event]) -> None:
        """A task's state changes at most once, from running to a final state."""
        store = Store(RETENTION_S)
        known: dict[str, State] = {}
        for event in events:
            store.apply(event)
            for each in map(task_id, range(4)):
                state = store.lookup(each, DEVICE)
                if each in known and known[each].final:
                    self.assertEqual(state, known[each])
                if state is not None:
                    known[each] = state

    @given(histories, st.floats(min_value=0, max_value=5e9))
    @example([Cancelled(task_id(0), DEVICE, 0.0)], RETENTION_S + 1)
    def test_expiry(self, events: list[Event], now: float) -> None:
        """At any time, exactly those tasks are forgotten whose (first) end is longer ago than the
        retention, in any order of ends. Cancelled tasks, and those with a key, are remembered for
        longer.
        """
        ends: dict[str, float] = {}
        store = Store(RETENTION_S)
        for event in events:
            store.apply(event)
            if isinstance(event, (Finished, Cancelled)) and store.finished(event.task_id):
                ends.setdefault(event.task_id, event.at)
        before = len(store)
        old = set()
        for each, at in ends.items():
            details = store.details(each, None, now)
            assert details is not None
            slack_s = 0.0 if details.fingerprint is None else KEY_SLACK_S
            if details.state is State.CANCELLED:
                slack_s = CANCELLED_SLACK_S
            if at + slack_s < now - RETENTION_S:
                old.add(each)
        self.assertEqual(store.expire(now), len(old))
        self.assertEqual(len(store), before - len(old))
        self.assertEqual(
            [each for each in ends if store.lookup(each, DEVICE) is None],
            [each for each in ends if each in old],
        )
        self.assertEqual(store.expire(now), 0)


class Expiry(SynchronousTestCase):
    def finish(self, store: Store, number: int, at: float) -> None:
        store.apply(Finished(task_id(number), DEVICE, at, State.COMPLETED, ""))

    def test_retention(self) -> None:
        """A finished task is known until the retention is over."""
        store = Store(RETENTION_S)
        self.finish(store, 1, at=1000.0)
        self.assertEqual(store.expire(1100.0), 0)
        self.assertEqual(store.lookup(task_id(1), DEVICE), State.COMPLETED)
        self.assertEqual(store.expire(1100.5), 1)
        self.assertIsNone(store.lookup(task_id(1), DEVICE))
        self.assertEqual(len(store), 0)

    def test_kept(self) -> None:
        """`keep` delays the expiry of a task, and of no other task."""
        store = Store(RETENTION_S)
        for number in (1, 2):
            self.finish(store, number, at=1000.0)
        self.assertEqual(
            [store.expire(1200.0, keep=lambda each: each == task_id(1)) for _ in range(2)], [1, 0]
        )
        self.assertEqual((store.state(task_id(1)), store.expire(1200.0)), (State.COMPLETED, 1))

    def test_never_finished(self) -> None:
        """A task that has not finished is never forgotten."""
        store = fold([Requested(task_id(1), DEVICE, 1.0), Started(task_id(2), DEVICE, 1.0, 1)])
        self.assertEqual(store.expire(1e12), 0)
        self.assertEqual(len(store), 2)

    def test_clocks_disagree(self) -> None:
        """A writer whose clock is ahead, by a minute or a year, only delays the expiry of its own
        tasks.
        """
        store = Store(RETENTION_S)
        for number, at in enumerate((1060.0, 1001.0, 1000.0 + 365 * 86400.0, 1002.0, 940.0)):
            self.finish(store, number, at)
        self.assertEqual(store.expire(1103.0), 3)
        self.assertEqual([number for number in range(5) if store.finished(task_id(number))], [0, 2])
        self.assertEqual(store.expire(1161.0), 1)

    def test_told_again_after_expiry(self) -> None:
        """A task that was forgotten and comes again in a replay is forgotten again."""
        events: list[Event] = [
            Requested(task_id(1), DEVICE, 1.0),
            Finished(task_id(1), DEVICE, 2.0, State.FAILED, ""),
        ]
        store = fold(events)
        store.expire(1000.0)
        for event in events:
            store.apply(event)
        self.assertEqual(store.expire(1000.0), 1)
        self.assertEqual(len(store), 0)


class Deaths(SynchronousTestCase):
    def crash_count(self, *events: tuple[int, str | None] | int) -> int:
        """Return the crash count of a task with these attempts, each a number and the process that
        began it. A number alone postpones.
        """
        store = fold([Requested(task_id(1), DEVICE, 1.0)])
        for event in events:
            if isinstance(event, int):
                store.apply(Postponed(task_id(1), DEVICE, 2.0, event, "refused", 3.0))
            else:
                store.apply(Started(task_id(1), DEVICE, 2.0, *event))
        return store.crash_count(task_id(1))

    def test_counted(self) -> None:
        """An attempt counts once if another process began the next one before it had an end,
        however often its events are repeated.
        """
        self.assertEqual(self.crash_count((1, "a"), (2, "b"), (3, "c")), 2)
        self.assertEqual(self.crash_count((1, "a"), (2, "b"), (2, "b"), (1, "a"), (2, "c")), 1)

    def test_not_counted(self) -> None:
        """Attempts with an end, attempts of the same process, and those of a version that does not
        name the process do not count.
        """
        self.assertEqual(self.crash_count((1, "a"), 1, (2, "b"), 2, (3, "c")), 0)
        self.assertEqual(self.crash_count((1, "a"), (2, "a"), (3, "a")), 0)
        self.assertEqual(self.crash_count((1, None), (2, None), (3, "c")), 0)
        self.assertEqual(fold([]).crash_count(task_id(1)), 0)


class Memory(SynchronousTestCase):
    def test_cost_of_a_task(self) -> None:
        """A finished task uses at most 380 bytes, including its id, and almost nothing once it is
        forgotten.
        """
        count = 5_000
        ids = [task_id(number) for number in range(count)]
        store = Store(RETENTION_S)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number, each in enumerate(ids):
            at = 1e9 + number
            for event in (
                Requested(each, DEVICE, at),
                Started(each, DEVICE, at + 0.5, 1),
                Finished(each, DEVICE, at + 60.5, State.COMPLETED, ""),
            ):
                # Each event is decoded from a message of its own, with its own copy of the id.
                store.apply(attrs.evolve(event, task_id="".join(each)))
        self.assertLess(tracemalloc.get_traced_memory()[0] / count, 380)
        self.assertEqual(store.expire(2e9), count)
        self.assertLess(tracemalloc.get_traced_memory()[0] / count, 100)

    @slow
    def test_cost_of_a_task_with_all_there_is(self) -> None:
        """A finished task of a device of its own, with a key and an outage of A, uses at most 1,300
        bytes, and nothing once it is forgotten.
        """
        count = 5_000
        store = Store(RETENTION_S)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(count):
            at, device = 1e9 + number, f"DEVICE{number}"
            store.apply(Requested(task_id(number), device, at, f"{number:024}"))
            for attempt in range(1, 6):
                store.apply(
                    Started("".join(task_id(number)), "".join(device), at + attempt, attempt)
                )
                reason = "".join(["A answered", " HTTP 503"])
                store.apply(
                    Postponed(task_id(number), device, at + attempt + 0.5, attempt, reason, at + 9)
                )
            store.apply(
                Finished(
                    task_id(number),
                    device,
                    at + 60.5,
                    State.COMPLETED,
                    "".join(["A answered", " 200"]),
                )
            )
        self.assertLess(tracemalloc.get_traced_memory()[0] / count, 1300)
        self.assertEqual(store.expire(2e9), count)
        self.assertLess(tracemalloc.get_traced_memory()[0] / count, 100)

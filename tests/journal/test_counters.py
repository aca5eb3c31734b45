"""Counters and indexes of the store: after any events they equal what a walk over all tasks
finds.
"""

from __future__ import annotations

from collections import Counter

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.journal.counters import EndCounts
from rtprov.journal.store import Store
from rtprov.journal.summary import summarise
from rtprov.model import (
    Active,
    EquipmentState,
    Event,
    Finished,
    Phase,
    Postponed,
    Requested,
    Started,
    State,
)
from tests.support.journal_folds import fold, task_id
from tests.support.task_histories import DEVICES, events

RETENTION_S = 100.0
NOW = 5e9


def phase_of(store: Store, number: int) -> Phase | None:
    details = store.details(task_id(number), None, NOW)
    return None if details is None else details.phase


class AfterAnyEvents(SynchronousTestCase):
    @given(st.lists(events(), max_size=12), st.none() | st.integers(0, 5000))
    def test_the_counters_equal_a_walk(self, history: list[Event], now: int | None) -> None:
        """The counts of a summary are those of the tasks, also after some were forgotten."""
        store = fold(history, RETENTION_S)
        if now is not None:
            store.expire(float(now))
        told = summarise(store, "w1", NOW)
        phases = Counter(phase_of(store, number) for number in range(6))
        self.assertEqual(
            (told.waiting, told.calling, told.retrying),
            tuple(phases[phase] for phase in (Phase.WAITING, Phase.CALLING, Phase.RETRYING)),
        )
        self.assertEqual(told.open, sum(not each.state.final for each in store.records()))

    @given(st.lists(events(), max_size=12), st.none() | st.integers(0, 5000))
    def test_the_indexes_have_each_task_once(self, history: list[Event], now: int | None) -> None:
        """Each task is in the index by acceptance, in exactly one group, and in the index by end
        exactly if it has ended. All are in their orders.
        """
        store = fold(history, RETENTION_S)
        if now is not None:
            store.expire(float(now))
        known = sorted(store.records(), key=lambda each: (each.at, each.task_id))
        indexes = store.indexes
        self.assertEqual(list(indexes.accepted.oldest()), known)
        self.assertEqual(list(indexes.accepted.before(1e9, "")), known[::-1])
        grouped = {
            record.task_id: key
            for key, group in indexes.groups.items()
            for record in group.oldest()
        }
        self.assertEqual(sum(map(len, indexes.groups.values())), len(known))
        self.assertEqual(
            grouped,
            {each.task_id: (each.state, each.reason, each.origin.caller) for each in known},
        )
        self.assertCountEqual(
            [record for each in indexes.ended.values() for record in each.oldest()],
            [record for record in known if record.state.final],
        )

    @given(
        st.lists(st.tuples(st.sampled_from([*State][1:]), st.integers(0, 200_000)), max_size=12),
        st.integers(100_000, 200_000),
    )
    def test_the_latest_ends(self, ends: list[tuple[State, int]], now: int) -> None:
        """If the ends come in the order of their times, those of the last minute, hour and day are
        counted.
        """
        counts = EndCounts()
        done = sorted((end for end in ends if end[1] <= now), key=lambda end: end[1])
        for state, at in done:
            counts.add(state, float(at))
        for totals, bucket_s, within_s in (
            (counts.last_minute, 1, 60),
            (counts.last_hour, 60, 3600),
            (counts.last_day, 60, 86400),
        ):
            since = (now // bucket_s) * bucket_s - within_s + bucket_s
            expected = Counter(state for state, at in done if at >= since)
            self.assertEqual(+Counter(totals(float(now))), expected)


class Told(SynchronousTestCase):
    def test_an_old_end_is_not_counted(self) -> None:
        """An end that comes late, from before the last day, changes no count."""
        counts = EndCounts()
        counts.add(State.FAILED, 200_000.0)
        counts.add(State.COMPLETED, 200_000.0 - 86_400.0)
        counts.add(State.COMPLETED, 200_000.0 - 60.0)
        self.assertEqual(
            [
                (totals[State.FAILED], totals[State.COMPLETED])
                for totals in (
                    counts.last_minute(200_000.0),
                    counts.last_hour(200_000.0),
                    counts.last_day(200_000.0),
                )
            ],
            [(1, 0), (1, 1), (1, 1)],
        )

    def test_the_oldest_waiting_task(self) -> None:
        """It is the first task that was never called."""
        history: list[Event] = [
            Requested(task_id(number), f"ABC12345{number}", 10.0 + number) for number in range(3)
        ]
        store = fold([*history, Started(task_id(0), "ABC123450", 20.0, 1)])
        self.assertEqual(summarise(store, "w1", 30.0).oldest_waiting_at, 11.0)
        self.assertIsNone(summarise(fold([]), "w1", 30.0).oldest_waiting_at)

    def test_service_a(self) -> None:
        """Since when A is in its state, and why it could not be reached, until it recovers."""
        active = Active("w1", 1.0, 10, EquipmentState.CLOSED)
        history: list[Event] = [
            active,
            Requested(task_id(1), DEVICES[0], 2.0),
            Started(task_id(1), DEVICES[0], 3.0, 1),
            Postponed(task_id(1), DEVICES[0], 4.0, 1, "refused", 9.0),
            evolve(active, at=5.0, equipment=EquipmentState.OPEN),
            evolve(active, at=6.0, equipment=EquipmentState.OPEN),
        ]
        told = summarise(fold(history), "w2", 7.0)
        self.assertEqual(
            (told.equipment, told.equipment_since, told.last_error, told.active, told.concurrency),
            (EquipmentState.OPEN, 5.0, "refused", "w1", 10),
        )
        self.assertEqual((told.low_s, told.high_s), (None, None))
        told = summarise(fold([*history, evolve(active, at=8.0)]), "w2", 9.0)
        self.assertEqual(
            (told.equipment, told.equipment_since, told.last_error),
            (EquipmentState.CLOSED, 8.0, None),
        )

    def test_an_answer_after_an_error(self) -> None:
        """An answer of A takes back the last error, unless A is in trouble."""
        active = Active("w1", 1.0, 10, EquipmentState.CLOSED)
        history: list[Event] = [
            active,
            Requested(task_id(1), DEVICES[0], 2.0),
            Started(task_id(1), DEVICES[0], 3.0, 1),
            Postponed(task_id(1), DEVICES[0], 4.0, 1, "refused", 5.0),
        ]
        late = Finished(task_id(1), DEVICES[0], 9.0, State.FAILED, "out of patience: refused")
        answered = evolve(late, state=State.COMPLETED, reason="A answered 200")
        opened = evolve(active, at=6.0, equipment=EquipmentState.OPEN)
        for then, error in (
            ([], "refused"),
            ([late], "refused"),
            ([answered], None),
            ([opened, answered], "refused"),
        ):
            told = summarise(fold([*history, *then]), "w2", 10.0)
            self.assertEqual(told.last_error, error, then)

    def estimate(self, waiting: int, devices: int, concurrency: int) -> tuple[float, float]:
        """Return the estimate for a backlog of 10-second calls."""
        history: list[Event] = [Active("w1", 1.0, concurrency, EquipmentState.CLOSED)]
        for number in range(100, 103):
            history += [
                Started(task_id(number), f"OLD{number}X", 2.0, 1),
                Finished(task_id(number), f"OLD{number}X", 12.0, State.COMPLETED, "A answered 200"),
            ]
        history += [
            Requested(task_id(1000 + number), f"ABC{number % devices:06}", 20.0)
            for number in range(waiting)
        ]
        told = summarise(fold(history), "w1", 20.0)
        assert told.low_s is not None and told.high_s is not None
        return told.low_s, told.high_s

    def test_time_left(self) -> None:
        """The estimate counts slots, and the tasks of a device one after the other."""
        self.assertEqual(summarise(fold([]), "w1", 5.0).high_s, 0.0)
        for waiting, devices, concurrency, expected_s in (
            (10, 10, 10, 10.0),
            (11, 11, 10, 20.0),
            (50, 50, 10, 50.0),
            (7, 1, 10, 70.0),
            (9000, 9000, 10, 9000.0),
        ):
            low_s, high_s = self.estimate(waiting, devices, concurrency)
            self.assertTrue(low_s <= expected_s <= high_s, (waiting, low_s, high_s))
            self.assertLess(high_s, 1.4 * expected_s)

    def test_the_first_call(self) -> None:
        """Until a call has ended, the range is wide."""
        told = summarise(fold([Requested(task_id(1), DEVICES[0], 1.0)]), "w1", 1.0)
        self.assertEqual((told.low_s, told.high_s), (30.0, 90.0))

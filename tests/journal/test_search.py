"""Searches in a store: they find what a look at each task finds, in pieces of any size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.journal import indexes as indexes_module
from rtprov.journal import search as search_module
from rtprov.journal import sorted_records
from rtprov.journal.search import Search
from rtprov.journal.store import Store
from rtprov.model import Cancelled, Details, Event, Finished, Requested, Started, State
from rtprov.reports import STATES, Cursor, TaskFilter
from tests.support.journal_folds import fold, task_id
from tests.support.task_histories import DEVICES, events

NOW = 5e9
maybe_times = st.none() | st.integers(0, 4000).map(float)


def some(values: Sequence[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """Return a strategy for some of these values."""
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


filters = st.builds(
    TaskFilter,
    states=st.lists(st.sampled_from(STATES), max_size=3, unique=True).map(tuple),
    callers=st.just(()) | some(["token:a", "token:c"]),
    equipment_ids=st.just(()) | some(DEVICES),
    reasons=st.just(()) | some(["cancelled by a client", ""]),
    accepted_after=maybe_times,
    accepted_before=maybe_times,
    ended_after=maybe_times,
    ended_before=maybe_times,
)


def fits(details: Details, at: float, wanted: TaskFilter) -> bool:
    """Whether a task fits: the meaning of a filter, written down once more."""
    names = {details.state.value, None if details.phase is None else details.phase.value}
    ended = details.finished_at
    return (
        (not wanted.states or not names.isdisjoint(wanted.states))
        and (not wanted.callers or details.caller in wanted.callers)
        and (not wanted.equipment_ids or details.equipment_id in wanted.equipment_ids)
        and (not wanted.reasons or details.reason in wanted.reasons)
        and (wanted.accepted_after is None or at >= wanted.accepted_after)
        and (wanted.accepted_before is None or at < wanted.accepted_before)
        and (wanted.ended_after is None or (ended is not None and ended >= wanted.ended_after))
        and (wanted.ended_before is None or (ended is not None and ended < wanted.ended_before))
    )


def expected(store: Store, wanted: TaskFilter) -> list[Details]:
    known = sorted(store.records(), key=lambda each: (each.at, each.task_id), reverse=True)
    rows = [(store.describe(record, NOW), record.at) for record in known]
    return [details for details, at in rows if fits(details, at, wanted)]


def found(store: Store, wanted: TaskFilter, limit: int, out_of_time: bool = False) -> list[Details]:
    """Return what all pieces of a search find, each with at most `limit` tasks."""
    tasks: list[Details] = []
    before: Cursor | None = None
    while True:
        piece = Search(store, wanted, before, lambda: out_of_time).tasks(limit, NOW)
        tasks += [each.details for each in piece.tasks]
        if piece.upto is None:
            return tasks
        assert before is None or piece.upto < before, "no progress"
        before = piece.upto


class Searching(SynchronousTestCase):
    @given(st.lists(events(), max_size=12), filters, st.integers(1, 4))
    def test_as_a_walk(self, history: list[Event], wanted: TaskFilter, limit: int) -> None:
        """A search finds the tasks that fit, newest first, page by page."""
        store = fold(history)
        self.assertEqual(found(store, wanted, limit), expected(store, wanted))

    @given(st.lists(events(), max_size=12), filters)
    def test_by_any_index(self, history: list[Event], wanted: TaskFilter) -> None:
        """The choice of the index does not change what is found, nor does the end of a piece after
        each task.
        """
        for module, name, value in (
            (search_module, "MAX_SORTED", -1),
            (search_module, "MAX_MERGED", 0),
            (indexes_module, "MAX_GROUPS", 2),
            (sorted_records, "BLOCK", 2),
            (search_module, "LOOK_EVERY", 1),
        ):
            self.patch(module, name, value)
            store = fold(history)
            self.assertEqual(found(store, wanted, 10, out_of_time=True), expected(store, wanted))

    @given(st.lists(events(), max_size=12), filters)
    def test_reasons(self, history: list[Event], wanted: TaskFilter) -> None:
        """The reasons are counted of the tasks that fit and have ended."""
        for groups in (1000, 2):
            self.patch(indexes_module, "MAX_GROUPS", groups)
            store = fold(history)
            counts = Search(store, wanted, None, lambda: False).reasons()
            self.assertIsNone(counts.upto)
            self.assertEqual(
                counts.counts,
                Counter(each.reason for each in expected(store, wanted) if each.reason is not None),
            )

    def test_no_campaign_yet(self) -> None:
        """No task belongs to a campaign."""
        store = fold([Requested(task_id(1), DEVICES[0], 1.0)])
        self.assertEqual(found(store, TaskFilter(campaigns=("may-1",)), 10), [])


class Bounds(SynchronousTestCase):
    """A piece ends in time, whatever it finds."""

    def store(self, count: int = 30_000) -> Store:
        store = Store(1e9)
        for number in range(count):
            store.apply(Requested(task_id(number), f"ABC{number:06}", float(number)))
            store.apply(
                Finished(task_id(number), f"ABC{number:06}", number + 1.0, State.COMPLETED, "done")
            )
        return store

    def test_a_piece_that_finds_nothing(self) -> None:
        """At most ten thousand tasks are examined in one piece, fewer if time is over."""
        store = self.store()
        wanted = TaskFilter(ended_after=0.0, reasons=("done",), ended_before=1e8)
        store.apply(Requested(task_id(99_999), "XYZ123456", 1e7))
        wanted = evolve(wanted, states=("completed",), ended_before=2e8, accepted_before=1e6)
        piece = Search(store, evolve(wanted, ended_after=29_990.0), None, lambda: False)
        self.assertEqual(len(piece.tasks(1000, NOW).tasks), 11)
        rare = evolve(wanted, ended_before=3000.0)
        piece = Search(store, rare, None, lambda: False)
        self.assertEqual(piece.tasks(10, NOW).upto, Cursor(20_000.0, task_id(20_000)))
        piece = Search(store, rare, None, lambda: True)
        self.assertEqual(piece.tasks(10, NOW).upto, Cursor(29_984.0, task_id(29_984)))

    def test_few_open_tasks(self) -> None:
        """The open tasks are found without a look at the ended ones."""
        store = self.store()
        store.apply(Requested(task_id(50_000), "XYZ123456", 5.0))
        store.apply(Started(task_id(50_000), "XYZ123456", 6.0, 1))
        store.apply(Requested(task_id(50_001), "XYZ123457", 4.0))
        store.apply(Requested(task_id(50_002), "XYZ123458", 4.0))
        store.apply(Cancelled(task_id(50_002), "XYZ123458", 7.0))
        for states, ids in (
            (("calling",), [50_000]),
            (("running",), [50_000, 50_001]),
            (("waiting",), [50_001]),
            (("cancelled",), [50_002]),
        ):
            piece = Search(store, TaskFilter(states=states), None, lambda: True).tasks(10, NOW)
            self.assertEqual(
                ([int(each.details.task_id, 16) for each in piece.tasks], piece.upto), (ids, None)
            )

"""The files of a history: what is searched is what was written, whatever the filter."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import ConfigurationError, TemporarilyUnavailable
from rtprov.history import scan as scan_module
from rtprov.history.day_file import DayFile
from rtprov.history.folder import Folder
from rtprov.history.search import HistorySearch, count
from rtprov.messaging.topology import Shard
from rtprov.model import State, shard_of
from rtprov.reports import Cursor, FoundTask, TaskFilter
from tests.support.ended_tasks import DAY_S, EPOCH, ended_task, numbers

SHARD = Shard(0, 1)
DEVICES = ("ABC123456", "ABC123457", "ABC123458")
REASONS = {State.COMPLETED: "A answered 200", State.FAILED: "lost", State.NOT_FOUND: "A: 404"}

tasks = st.lists(
    st.builds(
        lambda at, took, state, caller, device, attempts: (
            at * DAY_S / 8,
            (at + took) * DAY_S / 8,
            state,
            caller,
            device,
            attempts,
        ),
        st.integers(0, 40),
        st.integers(0, 24),
        st.sampled_from(sorted(REASONS, key=str)),
        st.sampled_from(["token:a", "token:b", None]),
        st.sampled_from(DEVICES),
        st.integers(0, 2),
    ),
    max_size=30,
).map(
    lambda each: [
        ended_task(
            number,
            at,
            finished,
            state,
            REASONS[state],
            caller=caller,
            equipment_id=device,
            attempts=attempts,
        )
        for number, (at, finished, state, caller, device, attempts) in enumerate(each)
    ]
)
times = st.none() | st.integers(0, 64).map(lambda eighth: EPOCH + eighth * DAY_S / 8)


def some(values: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


filters = st.builds(
    TaskFilter,
    states=some(["completed", "failed", "not_found", "cancelled", "waiting"]),
    callers=some(["token:a", "token:b", "token:c"]),
    equipment_ids=st.just(()) | some(list(DEVICES)),
    reasons=st.just(()) | some(list(REASONS.values())),
    task_ids=st.just(()) | some([f"{number:032x}" for number in range(4)]),
    accepted_after=times,
    accepted_before=times,
    ended_after=times,
    ended_before=times,
)


def fits(task: FoundTask, wanted: TaskFilter) -> bool:
    """Whether a task fits: the meaning of a filter, written down once more."""
    details, ended = task.details, task.details.finished_at or 0.0
    return (
        (not wanted.states or details.state.value in wanted.states)
        and (not wanted.callers or details.caller in wanted.callers)
        and (not wanted.equipment_ids or details.equipment_id in wanted.equipment_ids)
        and (not wanted.reasons or details.reason in wanted.reasons)
        and (not wanted.task_ids or details.task_id in wanted.task_ids)
        and (wanted.accepted_after is None or task.at >= wanted.accepted_after)
        and (wanted.accepted_before is None or task.at < wanted.accepted_before)
        and (wanted.ended_after is None or ended >= wanted.ended_after)
        and (wanted.ended_before is None or ended < wanted.ended_before)
    )


class FolderCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folders: list[Folder] = []
        self.addCleanup(self.close_all)

    def open(self) -> Folder:
        """Open a new folder."""
        self.directory = Path(self.mktemp())
        return self.reopen()

    def reopen(self) -> Folder:
        """Open the folder again, as the next process does."""
        self.close_all()
        self.folders.append(Folder(self.directory))
        return self.folders[-1]

    def close_all(self) -> None:
        for each in list(self.folders):
            self.close(each)

    def close(self, folder: Folder) -> None:
        self.folders.remove(folder)
        folder.close()

    def find(
        self,
        folder: Folder,
        wanted: TaskFilter = TaskFilter(),  # noqa: B008
        limit: int = 100,
        *,
        shard: Shard = SHARD,
        hurry: bool = False,
    ) -> list[FoundTask]:
        """Return what all pieces of a search find; with `hurry`, each piece makes one step."""
        found: list[FoundTask] = []
        before: Cursor | None = None
        while True:
            steps = [True, False] if hurry else []
            search = HistorySearch(
                folder,
                shard,
                wanted,
                before,
                lambda: bool(steps) and steps.pop(),  # noqa: B023
            )
            piece = search.tasks(limit)
            found += piece.tasks
            if piece.upto is None:
                return found
            assert before is None or piece.upto < before, "no progress"
            before = piece.upto


class Searching(FolderCase):
    @settings(max_examples=30)  # each makes several files
    @given(tasks, filters, st.integers(1, 4), st.booleans(), st.integers(1, 5))
    def test_as_a_walk(
        self, known: list[FoundTask], wanted: TaskFilter, limit: int, hurry: bool, examined: int
    ) -> None:
        """A search finds what a look at each task finds, in pages and pieces of any size, and the
        counts agree.
        """
        self.patch(scan_module, "MAX_EXAMINED", examined)
        self.patch(scan_module, "MAX_MERGED", 2)
        folder = self.open()
        folder.write([(SHARD, task) for task in known], [])
        expected = sorted(
            (task for task in known if fits(task, wanted)),
            key=lambda task: task.cursor,
            reverse=True,
        )
        self.assertEqual(self.find(folder, wanted, limit, hurry=hurry), expected)
        counts = count(folder, SHARD, wanted, lambda: False)
        total = sum(sum(each.values()) for each in counts.days.values())
        self.assertEqual((total, counts.whole), (len(expected), True))

    def test_after_another_number_of_shards(self) -> None:
        """Tasks that were written for another number of shards are found in the shard that their
        device has now, and nowhere else.
        """
        folder = self.open()
        devices = [f"ABC{number:06}" for number in range(40)]
        for count_, index in ((1, 0), (4, 3), (6, 1)):
            mine = [each for each in devices if shard_of(each, count_) == index]
            rows = [
                ended_task(count_ * 100 + number, number, 50.0, equipment_id=each)
                for number, each in enumerate(mine)
            ]
            folder.write([(Shard(index, count_), task) for task in rows], [])
        everything = self.find(folder)
        for shards in (1, 2, 3, 4):
            found = [self.find(folder, shard=Shard(index, shards)) for index in range(shards)]
            self.assertEqual(sum(map(len, found)), len(everything))
            for index, each in enumerate(found):
                for task in each:
                    self.assertEqual(shard_of(task.details.equipment_id, shards), index)
                reasons = count(folder, Shard(index, shards), TaskFilter(), lambda: False)
                self.assertEqual(sum(sum(day.values()) for day in reasons.days.values()), len(each))

    def test_only_files_that_may_match_are_opened(self) -> None:
        """A search for a time does not open the files of other days."""
        folder = self.open()
        for day in range(50):
            folder.write([(SHARD, ended_task(day, day * DAY_S, day * DAY_S + 60))], [])
        folder.matching(TaskFilter())  # now the times of acceptance in all files are known
        read: list[str] = []
        original = folder.file

        def counted(day: str) -> DayFile | None:
            read.append(day)
            return original(day)

        self.patch(folder, "file", counted)
        wanted = TaskFilter(accepted_after=EPOCH + 10 * DAY_S, accepted_before=EPOCH + 12 * DAY_S)
        self.assertEqual(numbers(self.find(folder, wanted)), [11, 10])
        self.assertEqual(len(read), 2)
        read.clear()
        piece = HistorySearch(folder, SHARD, TaskFilter(), None, lambda: False).tasks(3)
        self.assertEqual(numbers(piece.tasks), [49, 48, 47])
        self.assertLess(len(read), 6)


class Writing(FolderCase):
    def test_nothing_twice(self) -> None:
        """A task that is written again is not there twice, nor counted twice; not even if its
        acceptance has become unknown.
        """
        folder = self.open()
        task = ended_task(1, 10.0, 70.0)
        poorer = FoundTask(EPOCH + 60.0, task.details)
        for each in (task, task, poorer):
            folder.write([(SHARD, each)], [])
        self.assertEqual(self.find(folder), [task])
        counts = count(folder, SHARD, TaskFilter(), lambda: False)
        self.assertEqual(counts.days, {"2024-10-04": {"A answered 200": 1}})

    def test_an_id_that_is_used_again(self) -> None:
        """A later task with the same Idempotency-Key is another task, on the same day too."""
        folder = self.open()
        first, later = ended_task(1, 10.0, 70.0), ended_task(1, 20_000.0, 20_060.0)
        folder.write([(SHARD, first), (SHARD, later)], [])
        self.assertEqual(self.find(folder), [later, first])

    def test_days(self) -> None:
        """A task is in the file of the UTC day of its end. Only the owner can read the files, and
        closed ones have no log files beside them.
        """
        folder = self.open()
        folder.write([(SHARD, ended_task(1, 0.0, DAY_S - 1.0))], [("0of1", (0.0, EPOCH))])
        folder.write([(SHARD, ended_task(2, 0.0, DAY_S))], [])
        self.close(folder)
        names = {each.name: stat.S_IMODE(each.stat().st_mode) for each in self.directory.iterdir()}
        expected = ["2024-10-04.sqlite3", "2024-10-05.sqlite3", "coverage.sqlite3", "lock"]
        self.assertEqual(names, dict.fromkeys(expected, 0o600))
        self.assertEqual(stat.S_IMODE(self.directory.stat().st_mode), 0o700)
        again = self.reopen()
        self.assertEqual(again.coverage, {"0of1": [(0.0, EPOCH)]})
        self.assertEqual(numbers(self.find(again)), [2, 1])

    def test_old_days_are_removed(self) -> None:
        """Files of the days that ended before a time are removed, and what they covered."""
        folder = self.open()
        for day in range(4):
            folder.write([(SHARD, ended_task(day, day * DAY_S, day * DAY_S + 60))], [])
        folder.write([], [("0of1", (EPOCH, EPOCH + DAY_S)), ("1of1", (EPOCH, EPOCH + 9 * DAY_S))])
        self.assertEqual(folder.remove_before(EPOCH + 2 * DAY_S), 2)
        self.assertEqual(numbers(self.find(folder)), [3, 2])
        self.assertEqual(len(list(self.directory.glob("2024-*.sqlite3"))), 2)
        self.assertEqual(folder._coverage.load(), {"1of1": [(EPOCH, EPOCH + 9 * DAY_S)]})

    def test_one_worker(self) -> None:
        """A second worker on the same folder is refused, and says what to do."""
        self.open()
        refused = self.assertRaises(TemporarilyUnavailable, Folder, self.directory)
        self.assertIn("give each worker its own --history", str(refused))

    def test_no_folder(self) -> None:
        """A folder that cannot be made is refused with its name."""
        file = Path(self.mktemp())
        file.touch()
        refused = self.assertRaises(ConfigurationError, Folder, file / "history")
        self.assertIn(f"{file}/history: cannot keep the history here", str(refused))


class Damage(FolderCase):
    def test_a_damaged_file(self) -> None:
        """A file that is no history is left out, and named once; the other days are found."""
        folder = self.open()
        for day in range(3):
            folder.write([(SHARD, ended_task(day, day * DAY_S, day * DAY_S + 60))], [])
        self.close(folder)
        (self.directory / "2024-10-05.sqlite3").write_bytes(b"not a database" * 1000)
        damaged = self.reopen()
        self.assertEqual(numbers(self.find(damaged)), [2, 0])
        self.assertEqual(numbers(self.find(damaged)), [2, 0])
        self.assertEqual(damaged.damaged, {"2024-10-05"})

    def test_another_version(self) -> None:
        """A file of a later version is left out, and is not changed."""
        folder = self.open()
        folder.write([(SHARD, ended_task(1, 0.0, 60.0))], [])
        self.close(folder)
        path = self.directory / "2024-10-04.sqlite3"
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 2")
        connection.close()
        content = path.read_bytes()
        later = self.reopen()
        self.assertEqual(self.find(later), [])
        self.assertRaises(
            sqlite3.DatabaseError, later.write, [(SHARD, ended_task(2, 0.0, 60.0))], []
        )
        self.assertEqual(path.read_bytes(), content)

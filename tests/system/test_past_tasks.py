"""Searches beyond the retention, over HTTP, by the whole system in memory."""

from __future__ import annotations

from pathlib import Path

from rtprov.frontend.schemas import time_text
from tests.support.system import REQUEST, System
from tests.support.system_case import NO_TASK, SystemTestCase


class PastTasks(SystemTestCase):
    def make(self) -> System:
        return System(retention_s=100.0)

    def setUp(self) -> None:
        super().setUp()
        self.system.stop_worker(0)
        self.folders = [Path(self.mktemp()), Path(self.mktemp())]
        self.begin(0)

    def begin(self, folder: int) -> None:
        worker = self.system.start_worker(history=self.folders[folder])
        self.system.network.until(lambda: worker.connection.connected, 10.0)

    def told(self, path: str) -> dict[str, object]:
        answer = self.system.request("GET", path)
        self.assertEqual(answer.status, 200, answer.body)
        return dict(answer.json)

    def ids(self, query: str = "") -> tuple[list[str], object]:
        told = self.told(f"/api/v1/tasks{query}")
        tasks = told["tasks"]
        assert isinstance(tasks, list)
        return [task["taskId"] for task in tasks], told["incomplete"]

    def forgotten(self, device: str) -> str:
        """Return the id of a task that has ended, and that the workers have forgotten."""
        task_id = self.system.accepted(device)
        self.system.network.advance(262)
        self.assertEqual(self.status(device, task_id), NO_TASK)
        return task_id

    def test_a_forgotten_task(self) -> None:
        """A task is found in lists, counts, downloads and by its id after the retention. Its status
        is forgotten as before, and nothing of its body was written.
        """
        task_id = self.forgotten("ABC123456")
        self.assertEqual(self.ids(), ([task_id], []))
        self.assertEqual(self.ids("?state=completed&equipmentId=ABC123456"), ([task_id], []))
        self.assertEqual(self.ids("?state=failed"), ([], []))
        failures = self.told("/api/v1/tasks/failures?state=completed")
        self.assertEqual(
            (failures["failures"], failures["incomplete"]),
            ([{"reason": "A answered 200", "count": 1}], []),
        )
        details = self.told(f"/api/v1/tasks/{task_id}")["task"]
        self.assertEqual([details], self.told("/api/v1/tasks")["tasks"])
        lines = self.system.request("GET", "/api/v1/tasks.csv").body.decode().splitlines()
        self.assertEqual((len(lines), task_id in lines[1]), (2, True))
        unknown = self.system.request("GET", f"/api/v1/tasks/{'0' * 32}")
        self.assertEqual((unknown.status, unknown.json), NO_TASK)
        parameters = str(REQUEST["parameters"])
        self.assertIn("s3cr3t", parameters)
        for file in self.folders[0].iterdir():
            self.assertNotIn(b"s3cr3t", file.read_bytes())

    def test_pages(self) -> None:
        """Pages go from memory on into the history, without a double."""
        old = [self.forgotten(f"ABC12345{number}") for number in range(3)]
        new = [self.system.accepted(f"ABC12346{number}") for number in range(3)]
        self.system.network.advance(62)
        path: object = "/api/v1/tasks?limit=2"
        found: list[str] = []
        while path is not None:
            page = self.told(str(path))
            tasks = page["tasks"]
            assert isinstance(tasks, list)
            found += [task["taskId"] for task in tasks]
            path = page["next"]
        self.assertEqual((sorted(found), found[-3:]), (sorted(old + new), old[::-1]))

    def test_a_standby(self) -> None:
        """A standby writes, too. If the active worker is lost, nothing is missing; and a worker
        that reads its journal again adds nothing twice.
        """
        self.begin(1)
        task_id = self.forgotten("ABC123456")
        self.assertEqual(self.ids(), ([task_id], []))
        self.system.stop_worker(1)
        self.assertEqual(self.ids(), ([task_id], []))
        self.begin(0)
        self.assertEqual(self.ids(), ([task_id], []))
        failures = self.told("/api/v1/tasks/failures?state=completed")["failures"]
        self.assertEqual(failures, [{"reason": "A answered 200", "count": 1}])

    def test_what_none_covers(self) -> None:
        """What only the history of a lost worker has is named in `incomplete`; so it is if the only
        worker with a history is lost.
        """
        self.forgotten("ABC123456")
        self.ids()
        self.system.stop_worker(1)
        worker = self.system.start_worker()
        self.system.network.until(lambda: worker.connection.connected, 10.0)
        self.system.network.advance(31)  # now it has forgotten the task, too
        found, incomplete = self.ids()
        self.assertEqual(found, [])
        assert isinstance(incomplete, list)
        (named,) = incomplete
        self.assertRegex(named, r"^0of1 before 2027-01-15T\d\d:\d\d:\d\d\.\d{3}Z$")
        recent = self.system.wall_clock() - 50.0
        self.assertEqual(self.ids(f"?acceptedAfter={time_text(recent)}"), ([], []))


class NoHistory(SystemTestCase):
    def make(self) -> System:
        return System(retention_s=100.0)

    def test_as_before(self) -> None:
        """Without a history, a forgotten task is not found, and nothing is said about it."""
        task_id = self.system.accepted("ABC123456")
        self.system.network.advance(262)
        answer = self.system.request("GET", "/api/v1/tasks")
        self.assertEqual(answer.json, {"code": 200, "tasks": [], "next": None, "incomplete": []})
        answer = self.system.request("GET", f"/api/v1/tasks/{task_id}")
        self.assertEqual((answer.status, answer.json), NO_TASK)

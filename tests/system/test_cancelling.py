"""Cancelling a task: the journal's order decides every race, and the answer is always true. Also
the details and the list of tasks.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from twisted.logger import capturedLogs, formatEvent

from rtprov.model import keyed_task_id
from tests.support.scale import slow
from tests.support.system import System
from tests.support.system_case import COMPLETED, NO_EQUIPMENT, NO_TASK, SystemTestCase

DEVICE = "ABC123456"
CANCELLED = (
    500,
    {"code": 500, "message": "The task was cancelled before it was sent to the equipment service"},
)
DONE = (200, {"code": 200, "message": "Cancelled"})
TOO_LATE = (
    409,
    {
        "code": 409,
        "message": (
            "The task cannot be cancelled any more: it was sent to the equipment service, or has"
            " ended"
        ),
    },
)


def path(equipment_id: str, task_id: str) -> str:
    return f"/api/v1/equipment/cpe/{equipment_id}/task/{task_id}"


class CancelTestCase(SystemTestCase):
    def cancel(
        self, task_id: str, equipment_id: str = DEVICE, frontend: str = "b"
    ) -> tuple[int, object]:
        answer = self.system.request("DELETE", path(equipment_id, task_id), None, frontend)
        return answer.status, answer.json

    def details(self, task_id: str, frontend: str = "b") -> dict[str, Any]:
        answer = self.system.request("GET", f"/api/v1/tasks/{task_id}", None, frontend)
        self.assertEqual(answer.status, 200, answer.body)
        return cast("dict[str, Any]", answer.json["task"])

    def listed(self, query: str = "", equipment_id: str = DEVICE) -> Any:
        return self.system.request("GET", f"/api/v1/equipment/cpe/{equipment_id}/task{query}").json


class Cancelling(CancelTestCase):
    def test_a_task_that_waits(self) -> None:
        """A waiting task is cancelled: its status says so, A never hears of it, and the device's
        next task runs.
        """
        first, second, third = (self.system.accepted(DEVICE) for _ in range(3))
        self.assertEqual(self.cancel(second), DONE)
        self.assertEqual(self.status(DEVICE, second), CANCELLED)
        self.system.network.advance(121)
        self.assertEqual(
            [self.status(DEVICE, each) for each in (first, second, third)],
            [COMPLETED, CANCELLED, COMPLETED],
        )
        self.assertEqual(self.system.stub.calls, 2)
        self.assertEqual(self.system.workers[0].workers[0].held, 0)

    @slow
    def test_hundreds_for_one_device(self) -> None:
        """A device's next task runs even after many of its tasks were cancelled."""
        first, *cancelled, last = (self.system.accepted(DEVICE) for _ in range(300))
        for each in cancelled:
            self.assertEqual(self.cancel(each), DONE)
        self.system.network.advance(121)
        self.assertEqual(
            [self.status(DEVICE, each) for each in (first, last)], [COMPLETED, COMPLETED]
        )
        self.assertEqual((self.system.workers[0].workers[0].held, self.system.stub.calls), (0, 2))

    def test_cancelled_twice(self) -> None:
        """Cancelling a task again gives the same answer. The audit trail tells which request has
        cancelled it.
        """
        _, second = (self.system.accepted(DEVICE) for _ in range(2))
        with capturedLogs() as events:
            self.assertEqual([self.cancel(second), self.cancel(second)], [DONE, DONE])
        lines = [formatEvent(each) for each in events if "because" in each]
        self.assertEqual(
            [line.partition(":")[0] for line in lines], ["cancelled", "was cancelled already"]
        )

    def test_too_late(self) -> None:
        """A task that is running or has ended cannot be cancelled and is not affected."""
        task_id = self.system.accepted(DEVICE)
        self.system.network.advance(1)
        self.assertEqual(self.cancel(task_id), TOO_LATE)
        self.system.network.advance(60)
        self.assertEqual(
            (self.cancel(task_id), self.status(DEVICE, task_id)), (TOO_LATE, COMPLETED)
        )

    def test_what_is_not_there(self) -> None:
        """Unknown tasks, another device's task, and malformed ids give the same 404s as a GET."""
        task_id = self.system.accepted(DEVICE)
        self.assertEqual(self.cancel("0" * 32), NO_TASK)
        self.assertEqual(self.cancel(task_id, "DEF123456"), NO_TASK)
        self.assertEqual(self.cancel("x"), NO_TASK)
        self.assertEqual(self.cancel(task_id, "ABC"), NO_EQUIPMENT)

    def test_no_worker(self) -> None:
        """Without a worker it is unknown whether the task can be cancelled: the answer is 503, and
        nothing is cancelled.
        """
        stopped = self.system.workers.pop().stopService()
        self.system.network.until(lambda: bool(stopped.called))
        task_id = self.system.accepted(DEVICE)
        self.assertEqual(self.cancel(task_id)[0], 503)
        self.system.start_worker()
        self.system.network.advance(62)
        self.assertEqual(self.status(DEVICE, task_id), COMPLETED)

    def test_a_key(self) -> None:
        """The key of a cancelled task still gives that task."""
        self.system.accepted(DEVICE)
        answer = self.system.post(DEVICE, key="k")
        self.assertEqual(self.cancel(answer.json["taskId"]), DONE)
        self.assertEqual(self.system.post(DEVICE, key="k").json, answer.json)
        self.assertEqual(self.status(DEVICE, keyed_task_id(DEVICE, "k")), CANCELLED)

    def test_failover(self) -> None:
        """A worker that takes over knows which tasks were cancelled."""
        first, second = (self.system.accepted(DEVICE) for _ in range(2))
        self.system.start_worker()
        self.system.network.advance(2)
        self.assertEqual(self.cancel(second), DONE)
        self.system.workers[0].connection.stopService()
        self.system.network.advance(125)
        self.assertEqual(
            [self.status(DEVICE, each) for each in (first, second)], [COMPLETED, CANCELLED]
        )
        self.system.start_frontend("b2")
        self.system.network.advance(1)
        self.assertEqual(self.status(DEVICE, second, "b2"), CANCELLED)


class Races(CancelTestCase):
    def make(self) -> System:
        return System(delay_s=5.0)

    @slow
    def test_against_the_start(self) -> None:
        """Whenever a DELETE races the start of its task, 200 means that A was never called, and 409
        that the task continues to its end.
        """
        outcomes = set()
        for turns in range(-30, 30):
            device, calls = f"RACE{turns + 100:06}", self.system.stub.calls
            self.system.accepted(device)
            second = self.system.accepted(device)
            self.system.network.advance(4.99)
            if turns < 0:
                self.system.clock.advance(0.02)  # the first task ends, and the second one starts
            for _ in range(-turns):
                self.system.clock.advance(0)
            deleting = self.system.send("DELETE", path(device, second))
            for _ in range(turns):
                self.system.clock.advance(0)
            self.system.clock.advance(0.02)
            self.system.network.until(lambda: bool(deleting.called), 10.0)  # noqa: B023
            status = self.successResultOf(deleting).status
            self.system.network.advance(10)
            expected = {200: (CANCELLED, 1), 409: (COMPLETED, 2)}[status]
            self.assertEqual(
                (self.status(device, second), self.system.stub.calls - calls), expected, turns
            )
            outcomes.add(status)
        self.assertEqual(outcomes, {200, 409})

    @slow
    def test_cut_at_any_point(self) -> None:
        """Whenever the broker's connections break, a DELETE's 200 or 409 stays true, and a repeated
        503 becomes one of them.
        """
        outcomes = set()
        for turns in range(40):
            device, calls = f"CUT{turns:06}", self.system.stub.calls
            self.system.accepted(device)
            second = self.system.accepted(device)
            deleting = self.system.send("DELETE", path(device, second))
            for _ in range(turns):
                self.system.clock.advance(0)
            self.system.network.cut("broker")
            self.system.network.until(lambda: bool(deleting.called), 10.0)  # noqa: B023
            answer = self.successResultOf(deleting)
            self.system.network.advance(3)
            status = self.cancel(second, device)[0] if answer.status == 503 else answer.status
            self.system.network.advance(15)
            expected = {200: (CANCELLED, 1), 409: (COMPLETED, 2)}[status]
            self.assertEqual(
                (self.status(device, second), self.system.stub.calls - calls), expected, turns
            )
            outcomes.add(answer.status)
        self.assertEqual(outcomes, {200, 503})


class Told(CancelTestCase):
    def make(self) -> System:
        return System(concurrency=2, shards=3)

    def test_the_way_of_a_task(self) -> None:
        """A task's details show each stage, on any front end: waiting for its device, being called,
        ended.
        """
        self.system.start_frontend("b2")
        first, second = (self.system.accepted(DEVICE) for _ in range(2))
        self.system.network.advance(10)
        running, waiting = self.details(first, "b2"), self.details(second, "b2")
        self.assertEqual(
            (running["state"], running["waitsFor"], running["attemptCount"]), ("running", None, 1)
        )
        self.assertEqual(
            (running["acceptedAt"], running["expectedFinishAt"]),
            ("2027-01-15T08:00:00.000Z", "2027-01-15T08:01:00.000Z"),
        )
        self.assertEqual(
            (waiting["state"], waiting["waitsFor"]),
            ("running", {"reason": "device", "tasksAhead": 1}),
        )
        self.assertEqual((waiting["startedAt"], waiting["attempts"]), (None, []))
        self.system.network.advance(51)
        ended = self.details(first)
        self.assertEqual(
            (ended["state"], ended["reason"], ended["expectedFinishAt"]),
            ("completed", "A answered 200", None),
        )
        self.assertEqual(ended["finishedAt"], "2027-01-15T08:01:00.000Z")

    def test_concurrency(self) -> None:
        """The details of a task that waits only for a call slot say so."""
        for number in range(2):
            self.system.accepted(f"BUSYA{number}XX")
        task_id = self.system.accepted(DEVICE)
        self.system.network.advance(1)
        self.assertEqual(
            self.details(task_id)["waitsFor"], {"reason": "concurrency", "tasksAhead": 0}
        )

    def test_a_is_down(self) -> None:
        """While A cannot be reached, the details list the attempts with their errors and the time
        of the next one, also those from a standby.
        """
        self.system.network.factories.pop("a")
        task_id = self.system.accepted(DEVICE)
        self.system.start_worker()
        self.system.network.advance(40)
        for _ in range(4):
            task = self.details(task_id)
            self.assertEqual(
                (task["state"], task["waitsFor"]),
                ("running", {"reason": "service", "tasksAhead": 0}),
            )
            self.assertEqual(task["attempts"][-1]["number"], task["attemptCount"])
            for attempt in task["attempts"]:
                self.assertIn("A cannot be reached: ConnectionRefusedError", attempt["error"])
            # Earlier attempts were followed by others, so for them no next attempt is due.
            self.assertEqual(
                {attempt["nextAttemptAt"] for attempt in task["attempts"][:-1]}, {None}
            )
            due = task["attempts"][-1]["nextAttemptAt"]
            self.assertTrue(
                due is None
                or datetime.fromisoformat(due.replace("Z", "+00:00")).timestamp()
                > self.system.wall_clock(),
                due,
            )
        self.system.workers[0].connection.stopService()
        self.system.network.advance(1)
        self.assertGreaterEqual(self.details(task_id)["attemptCount"], 3)

    def test_unknown(self) -> None:
        """A task that no shard knows is a 404. A task that was just accepted is found."""
        self.assertEqual(self.system.request("GET", "/api/v1/tasks/" + "0" * 32).status, 404)
        self.assertEqual(self.system.request("GET", "/api/v1/tasks/x").status, 404)
        for number in range(10):
            self.details(self.system.accepted(f"DEVICE{number}"))

    def test_a_devices_tasks(self) -> None:
        """A device's tasks are listed newest first, as soon as they are accepted, page by page."""
        task_ids = [self.system.accepted(DEVICE) for _ in range(5)]
        self.system.accepted("DEF123456")
        page = self.listed("?limit=2")
        self.assertEqual([task["taskId"] for task in page["tasks"]], task_ids[:-3:-1])
        seen = page["tasks"]
        while page["next"]:
            answer = self.system.request("GET", page["next"])
            page = answer.json
            seen += page["tasks"]
            self.assertEqual(
                answer.header("Link"), f'<{page["next"]}>; rel="next"' if page["next"] else None
            )
        self.assertEqual([task["taskId"] for task in seen], task_ids[::-1])
        self.assertEqual(
            self.listed(equipment_id="NONE123456"), {"code": 200, "tasks": [], "next": None}
        )

    def test_every_page(self) -> None:
        """Following the pages, of any size, shows every task exactly once."""
        accepted = [self.system.accepted(DEVICE) for _ in range(130)]
        for limit in (1, 20, 99, 100):
            answer, found = self.listed(f"?limit={limit}"), []
            while answer["next"] is not None:
                found += [task["taskId"] for task in answer["tasks"]]
                answer = self.system.request("GET", answer["next"], None).json
            found += [task["taskId"] for task in answer["tasks"]]
            self.assertEqual(found[::-1], accepted, limit)

    def test_a_shard_without_a_worker(self) -> None:
        """While a shard has no worker, a task that is not found gives 503, because that shard may
        have it. Tasks of other shards are found.
        """
        stopped = self.system.workers.pop().stopService()
        self.system.network.until(lambda: bool(stopped.called))
        self.system.start_worker(shards=[0])
        self.system.network.advance(2)
        known = [self.system.accepted(f"DEVICE{number}") for number in range(9)]
        statuses = [
            self.system.request("GET", f"/api/v1/tasks/{task_id}").status for task_id in known
        ]
        self.assertEqual(set(statuses), {200, 503})
        self.assertEqual(self.system.request("GET", "/api/v1/tasks/" + "0" * 32).status, 503)

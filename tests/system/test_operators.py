"""What operators are told, over HTTP, by the whole system in memory."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import msgspec
from twisted.internet.protocol import Factory

from rtprov.errors import UndecodableMessage
from rtprov.messaging.query_messages import KeysAsked, Listing, TaskQuery, Watch
from rtprov.queries import directory
from tests.support.event_streams import stream_events
from tests.support.raw_http import RawClient, request
from tests.support.system import System
from tests.support.system_case import SystemTestCase


class OperatorTestCase(SystemTestCase):
    def told(self, path: str, frontend: str = "b") -> Any:
        answer = self.system.request("GET", path, None, frontend)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json

    def summary(self) -> Any:
        return self.told("/api/v1/summary")["summary"]

    def ids(self, query: str = "") -> list[str]:
        return [task["taskId"] for task in self.told(f"/api/v1/tasks{query}")["tasks"]]


class OneShard(OperatorTestCase):
    def make(self) -> System:
        return System(concurrency=2)

    def test_summary(self) -> None:
        """The summary has the fields of the contract, from the first moment on."""
        summary = self.summary()
        worker = self.system.workers[0]
        self.assertEqual(
            summary,
            {
                "tasks": {"waiting": 0, "calling": 0, "retrying": 0},
                "ended": {
                    period: {"completed": 0, "failed": 0, "not_found": 0, "cancelled": 0}
                    for period in ("lastMinute", "lastHour", "lastDay")
                },
                "oldestWaitingSeconds": None,
                "etaSeconds": {"low": 0, "high": 0},
                "etaReason": None,
                "equipment": {
                    "state": "closed",
                    "since": summary["equipment"]["since"],
                    "lastError": None,
                    "typicalCallSeconds": 60.0,
                },
                "dispatch": "running",
                "shards": [
                    {
                        "shard": "0of1",
                        "backlog": 0,
                        "active": worker.process_id,
                        "standbys": [],
                        "concurrency": 2,
                    }
                ],
                "parked": 0,
                "broker": {"connected": True, "blocked": False},
                "incomplete": [],
            },
        )
        self.assertRegex(summary["equipment"]["since"], r"^2027-.*Z$")

    def test_numbers(self) -> None:
        """The numbers follow the tasks."""
        for number in range(5):
            self.system.accepted(f"ABC12345{number}")
        self.system.network.advance(10)
        summary = self.summary()
        self.assertEqual(summary["tasks"], {"waiting": 3, "calling": 2, "retrying": 0})
        self.assertTrue(10 <= summary["oldestWaitingSeconds"] <= 11, summary)
        self.assertEqual(summary["shards"][0]["backlog"], 3)
        eta = summary["etaSeconds"]
        self.assertTrue(eta["low"] <= 170 <= eta["high"], eta)
        self.system.network.advance(52)
        summary = self.summary()
        self.assertEqual(summary["ended"]["lastMinute"]["completed"], 2)
        self.assertEqual(summary["equipment"]["typicalCallSeconds"], 60.0)
        self.system.network.advance(200)
        summary = self.summary()
        self.assertEqual(
            [summary["ended"][each]["completed"] for each in ("lastMinute", "lastHour")], [0, 5]
        )
        self.assertEqual(summary["tasks"], {"waiting": 0, "calling": 0, "retrying": 0})

    def test_standbys_and_no_worker(self) -> None:
        """Standbys are listed, also new ones. Without a worker the last numbers stay, and the
        shard is named.
        """
        self.summary()
        standby = self.system.start_worker()
        self.system.network.until(lambda: standby.connection.connected, 10.0)
        self.summary()
        self.system.network.advance(1)
        (shard,) = self.summary()["shards"]
        self.assertEqual(
            (shard["active"], shard["standbys"]),
            (self.system.workers[0].process_id, [standby.process_id]),
        )
        self.system.accepted("ABC123456")
        self.summary()
        for worker in self.system.workers:
            worker.stop_now()
            stopped = worker.stopService()
            self.system.network.until(lambda: bool(stopped.called), 10.0)  # noqa: B023
        summary = self.summary()
        self.assertEqual(
            (summary["etaSeconds"], summary["etaReason"], summary["incomplete"]),
            (None, "no worker", ["0of1"]),
        )
        self.assertEqual(
            (summary["shards"][0]["active"], summary["shards"][0]["standbys"]), (None, [])
        )
        self.assertEqual(sum(summary["tasks"].values()), 1)
        for path in ("/api/v1/tasks", "/api/v1/tasks/failures", "/api/v1/tasks.csv"):
            answer = self.system.request("GET", path)
            self.assertEqual((answer.status, answer.header("Retry-After")), (503, "2"))
        self.system.workers.clear()

    def test_a_broker_that_is_away(self) -> None:
        """The summary says so."""
        self.system.network.cut("broker")
        summary = self.summary()
        self.assertEqual(summary["broker"]["connected"], False)

    def test_a_worker_of_an_earlier_version(self) -> None:
        """It does not know these questions: the summary names the shard, the others are a 503
        within 5 s. Everything else works.
        """
        questions = TaskQuery | Listing | Watch | KeysAsked
        known = msgspec.json.Decoder(questions)

        def decode(body: bytes) -> object:
            try:
                return known.decode(body)
            except msgspec.DecodeError:
                raise UndecodableMessage("not a question about tasks") from None

        self.patch(directory, "decode_question", decode)
        task_id = self.system.accepted("ABC123456")
        self.assertEqual(self.told(f"/api/v1/tasks/{task_id}")["task"]["taskId"], task_id)
        began = self.system.clock.seconds()
        for path in ("/api/v1/tasks", "/api/v1/tasks/failures", "/api/v1/tasks.csv"):
            self.assertEqual(self.system.request("GET", path).status, 503)
        summary = self.summary()
        self.assertLess(self.system.clock.seconds() - began, 4 * 5)
        self.assertEqual((summary["incomplete"], summary["etaReason"]), (["0of1"], "no worker"))
        self.flushLoggedErrors(UndecodableMessage)

    def test_a_task_at_once(self) -> None:
        """A task is listed as soon as its POST was answered."""
        task_id = self.system.accepted("ABC123456")
        (task,) = self.told("/api/v1/tasks")["tasks"]
        details = self.told(f"/api/v1/tasks/{task_id}")["task"]
        self.assertEqual(task["taskId"], task_id)
        self.assertEqual(set(task), set(details))


class Following(OperatorTestCase):
    """The event stream, through two front ends."""

    def make(self) -> System:
        return System(shards=2, delay_s=5.0)

    def setUp(self) -> None:
        super().setUp()
        other = self.system.start_frontend("b2")
        self.system.network.until(lambda: other.connection.connected, 10.0)
        self.clients = [self.listen(name) for name in ("b", "b2", "b")]
        self.system.network.advance(1)

    def listen(self, frontend: str) -> RawClient:
        client = RawClient(self.system.network, None)
        connecting = self.system.network.connect(frontend).connect(
            Factory.forProtocol(lambda: client)
        )
        self.system.network.settle()
        self.successResultOf(connecting)
        client.send(request("GET", "/api/v1/events"))
        return client

    def heard(self, kind: str) -> list[list[Any]]:
        return [
            [event.data for event in stream_events(bytes(client.received)) if event.kind == kind]
            for client in self.clients
        ]

    def test_a_task(self) -> None:
        """All listeners see the numbers move, and each end once, also after the subscriptions were
        renewed several times.
        """
        for minute in range(3):
            ids = [self.system.accepted(f"ABC{minute}2345{number}") for number in range(4)]
            self.system.network.advance(60)
            for ended in self.heard("task"):
                self.assertEqual(len(ended), 4 * (minute + 1))
                self.assertEqual({task["taskId"] for task in ended[-4:]}, set(ids))
        for summaries in self.heard("summary"):
            self.assertIn(4, [each["tasks"]["calling"] for each in summaries])
            self.assertEqual(summaries[-1]["ended"]["lastHour"]["completed"], 12)

    def test_a_takeover(self) -> None:
        """When a standby takes over, each end is still told once."""
        standby = self.system.start_worker()
        self.system.network.until(lambda: standby.connection.connected, 10.0)
        self.system.accepted("ABC123456")
        self.system.network.advance(10)
        first = self.system.workers.pop(0)
        stopped = first.stopService()
        self.system.network.until(lambda: bool(stopped.called), 10.0)
        self.system.accepted("ABC123457")
        self.system.network.advance(10)
        for ended in self.heard("task"):
            self.assertEqual([task["equipmentId"] for task in ended], ["ABC123456", "ABC123457"])
        for summaries in self.heard("summary"):
            self.assertEqual(
                {shard["active"] for shard in summaries[-1]["shards"]} - {None},
                {standby.process_id},
            )

    def test_the_workers_are_away(self) -> None:
        """The stream says so, and goes on when they are back."""
        worker = self.system.workers.pop()
        stopped = worker.stopService()
        self.system.network.until(lambda: bool(stopped.called), 10.0)
        self.system.network.advance(3)
        for summaries in self.heard("summary"):
            self.assertEqual(summaries[-1]["incomplete"], ["0of2", "1of2"])
        self.system.start_worker()
        self.system.accepted("ABC123456")
        self.system.network.advance(10)
        self.assertEqual([len(ended) for ended in self.heard("task")], [1, 1, 1])


class ThreeShards(OperatorTestCase):
    def make(self) -> System:
        return System(shards=3, delay_s=2.0)

    def setUp(self) -> None:
        super().setUp()
        self.orders: list[str] = []
        for number in range(10):
            for word in ("ABC", "FAIL") if number % 2 else ("ABC",):
                self.orders.append(self.system.accepted(f"{word}{number:06}"))
                self.system.network.advance(0.01)
        self.orders.append(self.system.accepted("NOTFOUND01"))
        self.newest_first = self.orders[::-1]

    def test_pages(self) -> None:
        """Pages over all shards have each task once, newest first, although tasks come in between.
        Following `next` and giving the last task's id are the same.
        """
        self.assertEqual(self.ids("?limit=100"), self.newest_first)
        page = self.told("/api/v1/tasks?limit=4&state=running")
        found = [task["taskId"] for task in page["tasks"]]
        self.assertEqual(self.ids(f"?limit=4&before={found[-1]}"), self.newest_first[4:8])
        while page["next"]:
            self.system.accepted("XYZ123456")
            page = self.told(page["next"])
            found += [task["taskId"] for task in page["tasks"]]
        self.assertEqual(found, self.newest_first)
        self.assertEqual((page["next"], page["incomplete"]), (None, []))

    def test_a_full_last_page(self) -> None:
        """The last page has no `next`, even if it is full."""
        count = len(self.orders)
        page = self.told(f"/api/v1/tasks?limit={count}")
        self.assertEqual((len(page["tasks"]), page["next"]), (count, None))
        answer = self.system.request("GET", f"/api/v1/tasks?limit={count - 1}")
        self.assertEqual(answer.header("Link"), f'<{answer.json["next"]}>; rel="next"')

    def test_filters(self) -> None:
        """Tasks are found by state, reason, caller, device and times."""
        self.assertEqual(set(self.ids("?state=waiting&state=calling")), set(self.orders))
        self.system.network.advance(10)
        self.assertEqual(self.ids("?state=running"), [])
        self.assertEqual(len(self.ids("?state=failed")), 5)
        self.assertEqual(self.ids("?reason=A%20answered%20404"), self.orders[-1:])
        self.assertEqual(len(self.ids("?state=failed&state=not_found")), 6)
        caller = self.told("/api/v1/tasks?limit=1")["tasks"][0]["caller"]
        self.assertEqual(self.ids(f"?limit=100&caller={caller}"), self.newest_first)
        self.assertEqual(self.ids("?caller=token:none"), [])
        self.assertEqual(self.ids("?campaign=may-1"), [])
        self.assertEqual(self.ids("?equipmentId=ABC000000"), self.orders[:1])
        either = "?equipmentId=ABC000000&equipmentId=ABC000001&caller=token:none&caller=" + caller
        self.assertEqual(set(self.ids(either)), set(self.orders[:2]))
        middle = self.told("/api/v1/tasks?limit=4")["tasks"][-1]["acceptedAt"]
        self.assertEqual(self.ids(f"?limit=100&acceptedAfter={middle}"), self.newest_first[:4])
        self.assertEqual(self.ids(f"?limit=100&acceptedBefore={middle}"), self.newest_first[4:])
        self.assertEqual(self.ids("?endedAfter=2100-01-01T00:00:00Z"), [])
        self.assertEqual(len(self.ids("?limit=100&endedBefore=2100-01-01T00:00:00Z")), 16)

    def test_failures(self) -> None:
        """Failed tasks are counted by reason; other states if they are asked for."""
        self.system.network.advance(10)
        self.assertEqual(
            self.told("/api/v1/tasks/failures?by=reason"),
            {
                "code": 200,
                "failures": [{"reason": "A answered 500", "count": 5}],
                "incomplete": [],
            },
        )
        self.assertEqual(
            self.told("/api/v1/tasks/failures?by=reason&state=not_found&state=failed")["failures"],
            [
                {"reason": "A answered 500", "count": 5},
                {"reason": "A answered 404", "count": 1},
            ],
        )

    def test_wrong_parameters(self) -> None:
        """An unknown parameter or value is refused, and named."""
        for path, parameter in (
            ("tasks?sate=failed", "sate"),
            ("tasks?state=lost", "state"),
            ("tasks?state=", "state"),
            ("tasks?limit=0", "limit"),
            ("tasks?limit=101", "limit"),
            ("tasks?before=x", "before"),
            ("tasks?before=" + "f" * 48, "before"),
            ("tasks?equipmentId=x", "equipmentId"),
            ("tasks?acceptedAfter=yesterday", "acceptedAfter"),
            ("tasks?acceptedAfter=2026-13-29T12:35:44Z", "acceptedAfter"),
            ("tasks?endedBefore=2026-11-29", "endedBefore"),
            ("tasks?caller=", "caller"),
            ("tasks?caller=a&caller=%FF", "caller"),
            ("tasks?" + "&".join(f"caller={number}" for number in range(51)), "caller"),
            ("tasks?endedAfter=2026-11-29T12:35:44Z&endedAfter=2026-11-29T12:35:44Z", "endedAfter"),
            ("tasks?reason=" + "x" * 201, "reason"),
            ("tasks/failures?by=colour", "by"),
            ("tasks/failures?limit=5", "limit"),
            ("tasks.csv?limit=5", "limit"),
            ("tasks.jsonl?state=lost", "state"),
            ("summary?state=failed", "state"),
        ):
            answer = self.system.request("GET", f"/api/v1/{path}")
            self.assertEqual(answer.status, 400, path)
            self.assertTrue(answer.json["message"].startswith(f"{parameter}: "), answer.json)
        unknown = self.system.request("GET", "/api/v1/tasks?before=" + "0" * 32)
        self.assertEqual(unknown.status, 404)

    def test_downloads(self) -> None:
        """A download has all tasks: as CSV with a header line, or as JSON by lines."""
        answer = self.system.request("GET", "/api/v1/tasks.jsonl")
        tasks = [json.loads(line) for line in answer.body.splitlines()]
        self.assertEqual([task["taskId"] for task in tasks], self.newest_first)
        self.assertEqual(answer.header("Content-Type"), "application/jsonl")
        listed = self.told("/api/v1/tasks?limit=100")["tasks"]
        answer = self.system.request("GET", "/api/v1/tasks.csv?state=waiting&state=calling")
        self.assertEqual(answer.header("Content-Type"), "text/csv; charset=utf-8")
        rows = list(csv.reader(io.StringIO(answer.body.decode())))
        flat = [key for key, value in listed[0].items() if key not in ("waitsFor", "attempts")]
        self.assertEqual(rows[0], flat)
        self.assertEqual([row[0] for row in rows[1:]], self.newest_first)
        self.assertEqual(rows[1][flat.index("finishedAt")], "")
        self.assertEqual(self.system.request("HEAD", "/api/v1/tasks.csv").body, b"")

    def test_a_shard_without_a_worker(self) -> None:
        """The shard is named; the tasks of the others are told."""
        (worker,) = self.system.workers
        worker.stop_now()
        stopped = worker.stopService()
        self.system.network.until(lambda: bool(stopped.called), 10.0)
        self.system.workers[:] = []
        other = self.system.start_worker(shards=[0, 2])
        self.system.network.until(lambda: other.connection.connected, 10.0)
        page = self.told("/api/v1/tasks?limit=100")
        self.assertEqual(page["incomplete"], ["1of3"])
        self.assertTrue(0 < len(page["tasks"]) < len(self.orders))
        self.assertEqual(self.told("/api/v1/tasks/failures")["incomplete"], ["1of3"])
        self.assertEqual(self.summary()["incomplete"], ["1of3"])
        answer = self.system.request("GET", "/api/v1/tasks.csv")
        self.assertEqual(answer.header("Rtprov-Incomplete"), "1of3")
        self.assertEqual(len(answer.body.splitlines()), 1 + len(page["tasks"]))

"""Details, lists and cancellations over HTTP: paths, queries, preferences and errors."""

from __future__ import annotations

from twisted.python.failure import Failure

from rtprov.errors import BrokerUnavailable, NoReply, NoWorker, Unconfirmed
from rtprov.frontend.headers import preferred_wait_s
from rtprov.model import Finished, Requested, Started, State
from tests.support.front import (
    BODY,
    CPE,
    GET_PATH,
    ID,
    NO_EQUIPMENT,
    NO_METHOD,
    NO_TASK,
    TASK,
    FrontendTestCase,
)
from tests.support.raw_http import request

DETAILS = f"/api/v1/tasks/{TASK}"
LIST = f"{CPE}{ID}/task"
UNDECIDED = (
    "The request may or may not have taken effect: the broker's or the worker's answer was lost;"
    " send it again"
)


def task_id(number: int) -> str:
    return f"{number:032x}"


class Details(FrontendTestCase):
    def test_details(self) -> None:
        """The details have everything that is known about a task except for its key and body."""
        self.store.apply(
            Requested(TASK, ID, 1000.0, "fingerprint", caller="token:billing", accepted_by="f1")
        )
        self.store.apply(Started(TASK, ID, 1001.5, 1))
        task = self.ask("GET", DETAILS)
        self.assertEqual(task.status, 200)
        attempt = {
            "number": 1,
            "startedAt": "1970-01-01T00:16:41.500Z",
            "endedAt": None,
            "error": None,
            "nextAttemptAt": None,
        }
        expected = {
            "taskId": TASK,
            "equipmentId": ID,
            "state": "running",
            "acceptedAt": "1970-01-01T00:16:40.000Z",
            "startedAt": "1970-01-01T00:16:41.500Z",
            "finishedAt": None,
            "expectedFinishAt": "1970-01-01T00:17:41.500Z",
            "reason": None,
            "waitsFor": None,
            "attemptCount": 1,
            "attempts": [attempt],
            "phase": "calling",
            "caller": "token:billing",
            "acceptedBy": "f1",
            "campaign": None,
            "retryOf": None,
            "retriedAs": None,
        }
        self.assertEqual(task.json, {"code": 200, "task": expected})

    def test_not_found(self) -> None:
        """Unknown and malformed ids are the task's 404. Other methods are not allowed."""
        for path in (
            DETAILS,
            "/api/v1/tasks/",
            "/api/v1/tasks/x",
            DETAILS.upper().replace("/API/V1/TASKS", "/api/v1/tasks"),
        ):
            self.assertError(self.ask("GET", path), 404, NO_TASK)
        self.assertError(self.ask("DELETE", DETAILS), 405, NO_METHOD)

    def test_trouble(self) -> None:
        """Without a worker or a broker the answer is a 503 within 5 s."""
        for error in (NoWorker("no worker"), NoReply("late"), BrokerUnavailable("away")):
            self.directory.error = error
            for path in (DETAILS, LIST):
                self.assertError(self.ask("GET", path), 503)
        self.directory.error, self.directory.silent = None, True
        client = self.connect()
        client.send(request("GET", DETAILS))
        self.network.advance(5)
        self.assertError(client.answers()[0], 503)


class Lists(FrontendTestCase):
    def setUp(self) -> None:
        super().setUp()
        for number in range(30):
            self.store.apply(Requested(task_id(number), ID, 1000.0 + number))

    def listed(self, query: str = "") -> list[int]:
        answer = self.ask("GET", LIST + query)
        self.assertEqual(answer.status, 200, answer.body)
        return [int(task["taskId"], 16) for task in answer.json["tasks"]]

    def test_pages(self) -> None:
        """By default a page has twenty tasks. It links to the next page if there is one."""
        self.assertEqual(self.listed(), list(range(29, 9, -1)))
        self.assertEqual(self.listed(f"?before={task_id(10)}"), list(range(9, -1, -1)))
        answer = self.ask("GET", LIST + "?limit=3")
        following = f"{LIST}?limit=3&before={task_id(27)}"
        self.assertEqual(
            (answer.json["next"], answer.header("Link")), (following, f'<{following}>; rel="next"')
        )
        last = self.ask("GET", f"{LIST}?limit=10&before={task_id(10)}")
        self.assertEqual(
            (last.json["next"], last.header("Link"), len(last.json["tasks"])), (None, None, 10)
        )

    def test_queries(self) -> None:
        """An invalid limit is a 400 that says so, and so is an invalid task id as the start of a
        page.
        """
        for limit in ("0", "101", "-1", "1.0", "", "%D9%A1", "x", "1&limit=2", "%FF"):
            self.assertError(
                self.ask("GET", f"{LIST}?limit={limit}"),
                400,
                "limit: expected an integer from 1 to 100",
            )
        for before in ("", "x", TASK.upper(), f"{TASK}&before={TASK}"):
            self.assertError(
                self.ask("GET", f"{LIST}?before={before}"), 400, "before: expected a task's id"
            )
        self.assertError(
            self.ask("GET", f"{LIST}?limit"), 400, "limit: expected an integer from 1 to 100"
        )
        self.assertEqual(self.listed("?limit=100"), list(range(29, -1, -1)))
        self.assertEqual(self.listed("?&limit=1&"), [29])

    def test_unknown_parameters(self) -> None:
        """An unknown parameter is a 400 that names it, without its value. POST and status ignore
        queries.
        """
        for query, shown in (
            ("?limits=5", "limits"),
            ("?x", "x"),
            ("?limit=1&x=s3cr3t", "x"),
            ("?Limit=1", "Limit"),
            ("?%3Cb%3E=1", "?b?"),
            ("?=1", "(no name)"),
        ):
            message = f"{shown}: no such query parameter; expected limit or before"
            self.assertError(self.ask("GET", LIST + query), 400, message)
        for path in (DETAILS, DETAILS.replace("0", "1")):
            self.assertError(
                self.ask("GET", f"{path}?verbose=1"),
                400,
                "verbose: no such query parameter; this request has none",
            )
        self.assertError(
            self.ask("DELETE", GET_PATH + "?why=x"),
            400,
            "why: no such query parameter; expected reason",
        )
        self.knows(State.COMPLETED)
        self.assertEqual(self.ask("GET", GET_PATH + "?x=y").status, 200)
        self.assertEqual(self.ask("POST", f"{CPE}{ID}?x=y", BODY).status, 200)

    def test_equipment(self) -> None:
        """A malformed id is the equipment's 404. Equipment without tasks has an empty list."""
        self.assertError(self.ask("GET", f"{CPE}ABC/task"), 404, NO_EQUIPMENT)
        self.assertEqual(
            self.ask("GET", f"{CPE}NONE123456/task").json, {"code": 200, "tasks": [], "next": None}
        )


class Cancelling(FrontendTestCase):
    def test_cancelled(self) -> None:
        """A waiting task is cancelled. Its status is a 500 that says so."""
        self.store.apply(Requested(TASK, ID, 1000.0))
        answer = self.ask("DELETE", GET_PATH)
        self.assertEqual(
            (answer.status, answer.json, self.tasks.called_off),
            (200, {"code": 200, "message": "Cancelled"}, [TASK]),
        )
        self.knows(State.RUNNING)  # a replica that does not know it yet
        self.assertError(
            self.get(), 500, "The task was cancelled before it was sent to the equipment service"
        )

    def test_too_late(self) -> None:
        """Cancelling a task that was sent to A or has ended is a 409, and nothing is written to the
        journal.
        """
        self.store.apply(Started(TASK, ID, 1000.0, 1))
        for _ in range(2):
            self.assertError(self.ask("DELETE", GET_PATH), 409)
            self.store.apply(Finished(TASK, ID, 1001.0, State.COMPLETED, ""))
        self.assertEqual(self.tasks.called_off, [])

    def test_overtaken(self) -> None:
        """Cancelling a task that is sent to A meanwhile is a 409."""
        self.store.apply(Requested(TASK, ID, 1000.0))
        self.tasks.store = type(self.store)(1.0)
        self.tasks.then = lambda: self.store.apply(Started(TASK, ID, 1000.0, 1))
        self.assertError(self.ask("DELETE", GET_PATH), 409)

    def test_a_worker_that_cannot(self) -> None:
        """If the worker ignores the cancellation, because its version is too old, the answer is a
        503 that promises nothing.
        """
        self.store.apply(Requested(TASK, ID, 1000.0))
        self.tasks.store = type(self.store)(1.0)
        self.assertError(
            self.ask("DELETE", GET_PATH),
            503,
            "The worker is of an earlier version, which cannot cancel tasks",
        )

    def test_lost(self) -> None:
        """If the confirm is lost, the answer says that the task may or may not be cancelled. A
        client that hangs up affects no other.
        """
        self.store.apply(Requested(TASK, ID, 1000.0))
        self.tasks.error = Unconfirmed("lost")
        self.assertError(self.ask("DELETE", GET_PATH), 503, UNDECIDED)
        self.tasks.error, self.tasks.silent = None, True
        client = self.connect()
        client.send(request("DELETE", GET_PATH))
        client.hang_up()
        self.assertEqual(
            [event for event in self.events if "Unhandled" in event or "log_failure" in event], []
        )


class Preferences(FrontendTestCase):
    def test_wait(self) -> None:
        """The first well-formed wait among a request's preferences counts, up to a minute. Others
        are ignored.
        """
        for values, wait_s in (
            (["wait=10"], 10),
            (["Wait=10"], 10),
            (['wait="10"'], 10),
            (["wait = 10 ; x=y"], 10),
            (["respond-async, wait=10"], 10),
            (["respond-async", "wait=10"], 10),
            (["wait=10, wait=20"], 10),
            (["wait=" + "9" * 5000], 60),
            (["wait=0"], 0),
            (["wait=" + "0" * 5000], 0),
            (["wait=" + "0" * 5000 + "5"], 5),
            (['x="a, wait=10"'], 0),
            (['x="a\\", wait=10", wait=5'], 5),
            (['x="a, wait=10'], 0),
            (["wait"], 0),
            (["wait="], 0),
            (["wait=-1"], 0),
            (["wait=1.5"], 0),
            (["wait=\u0661"], 0),
            (["waiting=10"], 0),
            ([",,;=;,wait=7"], 7),
            (['"' * 8000 + "\\" * 8000], 0),
            ([" " * 16000 + '"' + "=" * 100], 0),
            ([], 0),
        ):
            self.assertEqual(preferred_wait_s(values), wait_s, values)

    def test_applied(self) -> None:
        """Only a running task is waited for. Without the preference there is no wait."""
        self.knows(State.RUNNING)
        self.assertIsNone(self.get().header("Preference-Applied"))
        client = self.connect()
        client.send(request("GET", GET_PATH, None, ["Prefer: wait=30"]))
        self.network.advance(20)
        self.assertEqual([(each, wait_s) for each, wait_s, _ in self.ends.waiting], [(TASK, 29.0)])
        self.ends.waiting[0][2].callback(State.COMPLETED)
        self.network.settle()
        (answer,) = client.answers()
        self.assertEqual(
            (answer.status, answer.json["code"], answer.header("Preference-Applied")),
            (200, 200, "wait=30"),
        )
        self.assertEqual(self.get().json["code"], 200)

    def test_hang_up(self) -> None:
        """A client that hangs up while it waits is forgotten."""
        self.knows(State.RUNNING)
        client = self.connect()
        client.send(request("GET", GET_PATH, None, ["Prefer: wait=30"]))
        client.hang_up()
        gone: list[Failure] = []
        self.ends.waiting[0][2].addErrback(gone.append)
        self.assertTrue(self.ends.waiting[0][2].called)

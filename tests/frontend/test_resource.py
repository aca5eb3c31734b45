"""A front end (B) over HTTP: posting tasks and reading their status."""

from __future__ import annotations

import rtprov.frontend.final_states
from rtprov.model import State, Task
from tests.support.fakes import PlainSealer
from tests.support.front import (
    BODY,
    GET_PATH,
    ID,
    NO_EQUIPMENT,
    NO_TASK,
    POST_PATH,
    TASK,
    FrontendTestCase,
)
from tests.support.raw_http import request

RUNNING = {"code": 204, "message": "Task is still running"}
FINAL = {
    State.COMPLETED: (200, "Completed"),
    State.FAILED: (500, "Internal provisioning exception"),
    State.NOT_FOUND: (404, NO_EQUIPMENT),
}


class Receipts(FrontendTestCase):
    def test_accepted(self) -> None:
        """A POST is answered 200 with the task's id and the location of its status."""
        answer = self.post()
        self.assertEqual((answer.status, answer.json), (200, {"code": 200, "taskId": TASK}))
        self.assertEqual(answer.header("Location"), GET_PATH)
        self.assertEqual(answer.header("Content-Type"), "application/json")

    def test_the_task(self) -> None:
        """The broker gets the body's bytes, sealed, with the timeout and the time of the POST."""
        self.clock.advance(5)
        self.assertAccepted(self.post())
        task = Task(
            TASK,
            ID,
            14,
            1005.0,
            PlainSealer().seal(BODY),
            caller="address:127.0.0.1",
            accepted_by="f1",
            key="plain",
        )
        self.assertEqual(self.tasks.submitted, [task])

    def test_priority(self) -> None:
        """The task has the urgency of the POST's ``Priority``, with and without a key."""
        for headers, expected in (
            ((), 3),
            (("Priority: u=0",), 0),
            (("Priority: u=5, i", "Idempotency-Key: k1"), 5),
            (("Priority: u=9",), 3),
        ):
            self.post(BODY, *headers)
            self.assertEqual(self.tasks.submitted[-1].urgency, expected)

    def test_each_post_is_a_task(self) -> None:
        """The same POST twice makes two tasks."""
        self.assertNotEqual(self.post().json["taskId"], self.post().json["taskId"])

    def test_not_before_the_broker_confirms(self) -> None:
        """A POST is not answered before the broker has confirmed the task."""
        self.tasks.silent = True
        client = self.connect()
        client.send(request("POST", POST_PATH, BODY))
        self.network.advance(4)
        self.assertEqual((len(self.tasks.submitted), bytes(client.received)), (1, b""))

    def test_media_types(self) -> None:
        """Each JSON media type is accepted, and so is a body without a media type."""
        for value in (
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=UTF-8",
            "application/json ; charset=windows-1251",
            'application/json; profile="a;b"',
            "application/vnd.acme+json",
            "application/problem+JSON; charset=utf-8",
            "text/x+json",
        ):
            self.assertAccepted(self.post(BODY, f"Content-Type: {value}"))
        self.assertAccepted(
            self.say(
                b"POST %s HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n%s"
                % (POST_PATH.encode(), len(BODY), BODY)
            )[0]
        )
        self.assertEqual(self.bodies(), [BODY] * 10)

    def test_other_media_types(self) -> None:
        """Any other media type is a 415 that says what to send."""
        message = "Unsupported media type: send a JSON body with Content-Type: application/json"
        for fields in (
            ["Content-Type: text/plain"],
            ["Content-Type: text/json"],
            ["Content-Type: application/x-www-form-urlencoded"],
            ["Content-Type: multipart/form-data; boundary=x"],
            ["Content-Type: multipart/form-data"],
            ["Content-Type: application/jsonx"],
            ["Content-Type: application/json+x"],
            ["Content-Type: application/json, text/plain"],
            ["Content-Type: application/json text/plain"],
            ["Content-Type: application/ json"],
            ["Content-Type: json"],
            ["Content-Type: +json"],
            ["Content-Type: /+json"],
            ["Content-Type: a/b/c+json"],
            ["Content-Type: a b/c+json"],
            ["Content-Type: application/+json x"],
            ["Content-Type: ;"],
            ["Content-Type: "],
            ["Content-Type: \xff\xfe"],
            ["Content-Type: <script>/x+json"],
            ["Content-Type: " + "a/" * 4000],
            ["Content-Type: application/json", "Content-Type: text/plain"],
            ["Content-Type: text/plain", "Content-Type: application/json"],
            ["Content-Type: application/json", "Content-Type: application/json"],
        ):
            answer = self.post(BODY, *fields)
            self.assertRefused(answer, 415, message)
            self.assertEqual(answer.header("Accept-Post"), "application/json")

    def test_media_type_comes_before_the_body(self) -> None:
        """A body with another media type is not parsed."""
        self.assertRefused(self.post(b"[", "Content-Type: text/plain"), 415)


class Statuses(FrontendTestCase):
    def test_final(self) -> None:
        """Each final state has its status and message."""
        for state, (status, message) in FINAL.items():
            task_id = f"{status:032x}"
            self.knows(state, task_id=task_id)
            self.assertError(self.get(task_id=task_id), status, message)

    def test_running(self) -> None:
        """A running task is HTTP 200 with code 204 and Retry-After."""
        self.knows(State.RUNNING)
        answer = self.get()
        self.assertEqual(
            (answer.status, answer.json, answer.header("Retry-After")), (200, RUNNING, "5")
        )
        self.assertEqual(answer.header("Content-Type"), "application/json")

    def test_unknown(self) -> None:
        """An unknown task is the task's 404."""
        self.assertError(self.get(), 404, NO_TASK)

    def test_of_other_equipment(self) -> None:
        """A task of other equipment is the task's 404, also if the front end remembers its final
        state. Ids are case-sensitive.
        """
        self.knows(State.COMPLETED)
        for _ in range(2):
            self.assertError(self.get("OTHER12345"), 404, NO_TASK)
            self.assertError(self.get(ID.lower()), 404, NO_TASK)
            self.assertEqual(self.get().status, 200)

    def test_final_states_are_remembered(self) -> None:
        """A final state is requested from a worker once. It stays the same whatever worker answers
        later.
        """
        for state, (status, message) in FINAL.items():
            task_id = f"{status:032x}"
            self.knows(state, task_id=task_id)
            self.get(task_id=task_id)
            self.knows(State.RUNNING, task_id=task_id)
            asked = len(self.statuses.asked)
            self.assertError(self.get(task_id=task_id), status, message)
            self.assertEqual(len(self.statuses.asked), asked)

    def test_the_latest_are_remembered(self) -> None:
        """If there are very many final states, the oldest are forgotten, and requested again."""
        self.patch(rtprov.frontend.final_states, "MAX_REMEMBERED", 2)
        for number in (1, 2, 3, 3, 2, 1):
            self.knows(State.COMPLETED, task_id=f"{number:032x}")
            self.assertEqual(self.get(task_id=f"{number:032x}").status, 200)
        self.assertEqual(len(self.statuses.asked), 4)

    def test_others_are_asked_for_again(self) -> None:
        """The state of a running or unknown task is requested each time."""
        self.assertError(self.get(), 404, NO_TASK)
        self.knows(State.RUNNING)
        self.assertEqual(self.get().json, RUNNING)
        self.knows(State.COMPLETED)
        self.assertEqual(self.get().json, {"code": 200, "message": "Completed"})

    def test_never_back_from_final(self) -> None:
        """A running state that arrives after a final state was returned does not replace it."""
        self.statuses.silent = True
        slow, quick = self.connect(), self.connect()
        slow.send(request("GET", GET_PATH))
        quick.send(request("GET", GET_PATH))
        for deferred, state in zip(
            reversed(self.statuses.asked), (State.COMPLETED, State.RUNNING), strict=True
        ):
            deferred.callback(state)
        self.network.settle()
        for client in (quick, slow):
            self.assertEqual(client.answers()[0].json, {"code": 200, "message": "Completed"})

    def test_a_body_is_passed_over(self) -> None:
        """The body of a GET, of any kind, is ignored."""
        self.knows(State.COMPLETED)
        self.assertEqual(
            self.ask("GET", GET_PATH, b"x" * 70_000, ["Content-Type: text/plain"]).status, 200
        )


class RunningAsAccepted(FrontendTestCase):
    running_status = 202

    def test_running(self) -> None:
        """With --running-status 202 only the HTTP status changes."""
        self.knows(State.RUNNING)
        answer = self.get()
        self.assertEqual(
            (answer.status, answer.json, answer.header("Retry-After")), (202, RUNNING, "5")
        )
        self.assertEqual(answer.header("Content-Type"), "application/json")

    def test_not_running(self) -> None:
        """It does not change answers about tasks that are not running."""
        self.assertError(self.get(), 404, NO_TASK)
        self.knows(State.COMPLETED)
        self.assertEqual(self.get().json, {"code": 200, "message": "Completed"})
        self.assertAccepted(self.post())


class RunningAsNoContent(FrontendTestCase):
    running_status = 204

    def test_running(self) -> None:
        """With --running-status 204 a running task is a 204 without a body and without headers that
        describe one. The connection stays open.
        """
        self.knows(State.RUNNING)
        client = self.connect()
        client.send(request("GET", GET_PATH) * 2 + request("HEAD", GET_PATH) + request("GET", "/"))
        *running, other = client.answers()
        for answer in running:
            self.assertEqual(
                (answer.status, answer.header("Retry-After"), answer.header("Cache-Control")),
                (204, "5", "no-store"),
            )
            self.assertEqual(
                [
                    answer.header(name)
                    for name in ("Content-Type", "Content-Length", "Transfer-Encoding")
                ],
                [None] * 3,
            )
        self.assertEqual((len(running), other.status), (3, 404))


class ReceiptsInPieces(Receipts):
    piece = 1


class StatusesInPieces(Statuses):
    piece = 1

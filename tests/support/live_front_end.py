"""A small front end for the tests of the page ``/ui/``: real files, log-in and access control, and
data that the test makes up, in the forms of the API.

    front = LiveFrontEnd(admission, clock)
    port = await front.listen()
    front.end(front.add("ABC123456", phase="calling"), "completed", "A answered 200")

Every listener of ``/api/v1/events`` gets what `push` sends. `cut` closes their connections, and
`down` makes the port refuse new ones.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from itertools import count
from typing import Any, cast

import trustme
from klein import Klein
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.ssl import PrivateCertificate
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from rtprov.errors import EquipmentMalformed, TaskNotFound, TooLate
from rtprov.frontend.query_parameters import arguments_of
from rtprov.frontend.session_routes import add_session_routes
from rtprov.frontend.static_files import answer_file
from rtprov.http.admission import Admission
from rtprov.http.request import caller_of, json_resource
from rtprov.http.responses import answer, answer_error, envelope
from rtprov.http.same_origin import SameOrigin
from rtprov.http.site import JsonSite
from rtprov.model import is_equipment_id
from tests.support.processes import reactor

CPE = "/api/v1/equipment/cpe/<equipment_id>/task"
ENDED = ("completed", "failed", "not_found", "cancelled")


class LiveFrontEnd:
    """The front end. `summary` is what it answers; a test may change it and call `push_summary`."""

    app = Klein()
    add_session_routes(app)

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.tasks: dict[str, dict[str, Any]] = {}  # the oldest first
        self.cancelled: list[tuple[str, str | None]] = []
        self.summary = new_summary()
        self._numbers = count(1)
        self._listeners: list[IRequest] = []
        self._port: IListeningPort | None = None
        self._site = JsonSite(
            cast("IResource", SameOrigin(json_resource(self.app))),
            reactor=reactor,
            admission=admission,
        )
        issued = trustme.CA().issue_cert("localhost")
        self._certificate = PrivateCertificate.loadPEM(
            issued.private_key_and_cert_chain_pem.bytes()
        )

    async def listen(self, port: int = 0) -> int:
        """Listen on a port; return its number."""
        endpoint = SSL4ServerEndpoint(
            reactor, port, self._certificate.options(), interface="127.0.0.1"
        )
        self._port = await endpoint.listen(self._site)
        return cast("int", cast("Any", self._port.getHost()).port)

    async def down(self) -> None:
        """Close the port and all connections."""
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
            self._port = None
        for channel in list(self._site.channels):
            cast("Any", channel.transport).abortConnection()

    @property
    def listeners(self) -> int:
        """How many pages follow the events."""
        return len(self._listeners)

    # What a test does.

    def add(self, equipment_id: str, *, phase: str | None = "waiting", **more: Any) -> str:
        """Add a task that has not ended; return its id."""
        task_id = f"{next(self._numbers):032x}"
        self.tasks[task_id] = {
            "taskId": task_id,
            "equipmentId": equipment_id,
            "state": "running",
            "acceptedAt": now(),
            "startedAt": None,
            "finishedAt": None,
            "expectedFinishAt": now(),
            "reason": None,
            "waitsFor": {"reason": "device", "tasksAhead": 1} if phase == "waiting" else None,
            "attemptCount": 0,
            "attempts": [],
            "phase": phase,
            "caller": "token:billing",
            "acceptedBy": "5f0c1d2e3a4b",
            "campaign": None,
            "retryOf": None,
            "retriedAs": None,
            **more,
        }
        return task_id

    def end(self, task_id: str, state: str, reason: str) -> None:
        """End a task, as the event stream reports it."""
        began = self.tasks[task_id]["acceptedAt"]
        attempt = {
            "number": 1,
            "startedAt": began,
            "endedAt": now(),
            "error": None,
            "nextAttemptAt": None,
        }
        self.tasks[task_id] |= {
            "state": state,
            "phase": None,
            "finishedAt": now(),
            "startedAt": began,
            "expectedFinishAt": None,
            "waitsFor": None,
            "reason": reason,
            "attemptCount": 1,
            "attempts": [attempt],
        }
        self.push("task", self.tasks[task_id])

    def push_summary(self, **tasks: int) -> None:
        """Send the summary, after these changes to its numbers of tasks."""
        self.summary["tasks"] |= tasks
        self.push("summary", self.summary)

    def push(self, kind: str, value: object) -> None:
        """Send an event to all listeners."""
        for each in list(self._listeners):
            self._send(each, kind, value)

    def _send(self, request: IRequest, kind: str, value: object) -> None:
        number = next(self._numbers)
        request.write(f"id: {number}\nevent: {kind}\ndata: {json.dumps(value)}\n\n".encode())

    # What it serves.

    @app.handle_errors(Exception)
    def _on_error(self, request: IRequest, failure: Failure) -> bytes:
        return answer_error(request, failure)

    @app.route("/ui/", methods=["GET"])
    def _page(self, request: IRequest) -> bytes:
        return answer_file(request, "ui/index.html")

    @app.route("/ui/<path:name>", methods=["GET"])
    def _file(self, request: IRequest, name: str) -> bytes:
        return answer_file(request, f"ui/{name}")

    @app.route("/api/v1/summary", methods=["GET"])
    def _summary(self, request: IRequest) -> bytes:
        return answer(request, 200, {"code": 200, "summary": self.summary})

    @app.route("/api/v1/tasks", methods=["GET"])
    def _tasks(self, request: IRequest) -> bytes:
        asked = arguments_of(cast("bytes", cast("Any", request).uri))
        assert set(asked) <= {b"state", b"limit"}, asked
        states = [each.decode() for each in asked[b"state"]]
        found = [task for task in reversed(self.tasks.values()) if task["state"] in states]
        return answer(request, 200, {"code": 200, "tasks": found[:20], "next": None})

    @app.route("/api/v1/tasks/failures", methods=["GET"])
    def _failures(self, request: IRequest) -> bytes:
        asked = arguments_of(cast("bytes", cast("Any", request).uri))
        assert set(asked) == {b"by", b"endedAfter"}, asked
        counts: dict[str, int] = {}
        for task in self.tasks.values():
            if task["state"] == "failed":
                counts[task["reason"]] = counts.get(task["reason"], 0) + 1
        failures = [{"reason": reason, "count": number} for reason, number in counts.items()]
        return answer(request, 200, {"code": 200, "failures": failures})

    @app.route("/api/v1/tasks/<task_id>", methods=["GET"])
    def _task(self, request: IRequest, task_id: str) -> bytes:
        if task_id not in self.tasks:
            raise TaskNotFound
        return answer(request, 200, {"code": 200, "task": self.tasks[task_id]})

    @app.route(CPE, methods=["GET"])
    def _device(self, request: IRequest, equipment_id: str) -> bytes:
        if not is_equipment_id(equipment_id):
            raise EquipmentMalformed
        found = [each for each in self.tasks.values() if each["equipmentId"] == equipment_id]
        return answer(request, 200, {"code": 200, "tasks": found[::-1], "next": None})

    @app.route(f"{CPE}/<task_id>", methods=["DELETE"])
    def _cancel(self, request: IRequest, equipment_id: str, task_id: str) -> bytes:
        if self.tasks[task_id]["phase"] != "waiting":
            raise TooLate
        reasons = arguments_of(cast("bytes", cast("Any", request).uri)).get(b"reason", [b""])
        self.cancelled.append((caller_of(request).name, reasons[0].decode()))
        self.end(task_id, "cancelled", "cancelled by a client")
        return answer(request, 200, envelope(200, "Cancelled"))

    @app.route("/api/v1/events", methods=["GET"])
    def _events(self, request: IRequest) -> Deferred[bytes]:
        request.setHeader(b"Content-Type", b"text/event-stream")
        request.setHeader(b"Cache-Control", b"no-store")
        self._listeners.append(request)
        self._send(request, "summary", self.summary)
        # Klein cancels it when the connection is lost.
        return Deferred(lambda _: self._listeners.remove(request))


def now() -> str:
    """Return the time as the API writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_summary() -> dict[str, Any]:
    """Return the summary of a system that is in order."""
    ended = {"completed": 29, "failed": 1, "not_found": 0, "cancelled": 0}
    return {
        "tasks": {"waiting": 812, "calling": 10, "retrying": 3},
        "ended": {
            "lastMinute": ended,
            "lastHour": {"completed": 1712, "failed": 21, "not_found": 4, "cancelled": 2},
            "lastDay": {"completed": 40122, "failed": 310, "not_found": 61, "cancelled": 17},
        },
        "oldestWaitingSeconds": 360.1,
        "etaSeconds": {"low": 1500, "high": 1800},
        "etaReason": None,
        "equipment": {
            "state": "closed",
            "since": now(),
            "lastError": None,
            "typicalCallSeconds": 20.1,
        },
        "dispatch": "running",
        "shards": [
            {
                "shard": "0of1",
                "backlog": 812,
                "active": "4be1c0ffee00",
                "standbys": ["90ab12cd34ef"],
                "concurrency": 500,
            }
        ],
        "parked": 0,
        "broker": {"connected": True, "blocked": False},
    }

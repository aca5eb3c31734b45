"""A front end with canned answers, built from the forms that operators' tools rely on.

It serves what the command line asks for: lists, searches, downloads, the summary, and events. A
test sets its fields, and reads `requests` afterwards.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from attrs import define, field, frozen
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

CSV = {"Content-Type": "text/csv; charset=utf-8"}
SUMMARY: dict[str, Any] = {
    "tasks": {"waiting": 812, "calling": 10, "retrying": 3},
    "ended": {
        "lastMinute": {"completed": 29, "failed": 1, "not_found": 0, "cancelled": 0},
        "lastHour": {"completed": 1740, "failed": 12, "not_found": 2, "cancelled": 1},
        "lastDay": {"completed": 40000, "failed": 300, "not_found": 20, "cancelled": 7},
    },
    "oldestWaitingSeconds": 360.1,
    "etaSeconds": {"low": 1500, "high": 1800},
    "etaReason": None,
    "equipment": {
        "state": "closed",
        "since": "2026-11-29T12:00:00.000Z",
        "lastError": None,
        "typicalCallSeconds": 20.1,
    },
    "dispatch": "running",
    "shards": [
        {"shard": "0of1", "backlog": 812, "active": "w1", "standbys": ["w2"], "concurrency": 500}
    ],
    "parked": 0,
    "broker": {"connected": True, "blocked": False},
}


def task_document(number: int, state: str = "failed", **fields: Any) -> dict[str, Any]:
    """Return a task as lists and details have it."""
    return {
        "taskId": f"{number:032x}",
        "equipmentId": f"ABC{number:06d}",
        "state": state,
        "acceptedAt": "2026-11-29T12:00:00.000Z",
        "startedAt": "2026-11-29T12:00:01.000Z",
        "finishedAt": "2026-11-29T12:01:01.000Z",
        "expectedFinishAt": None,
        "reason": "A answered 500" if state == "failed" else "A answered 200",
        "waitsFor": None,
        "attemptCount": 1,
        "attempts": [],
        "phase": None,
        "caller": "token:billing",
        "acceptedBy": "f1",
        "campaign": None,
        "retryOf": None,
        "retriedAs": None,
        **fields,
    }


@frozen
class Canned:
    """An answer: its HTTP status, its JSON document or its bytes, and header fields."""

    status: int
    document: Any
    headers: dict[str, str] = field(factory=dict)


@frozen
class Asked:
    """A request that has arrived."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes


@define(eq=False, slots=False)
class FakeFrontEnd(Resource):
    """Answers requests; `answers` are given first, in their order, whatever is asked."""

    isLeaf = True
    tasks: list[dict[str, Any]] = field(factory=list)
    summary: dict[str, Any] = field(factory=lambda: dict(SUMMARY))
    answers: deque[Canned] = field(factory=deque)
    requests: list[Asked] = field(factory=list)
    listeners: list[Request] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        Resource.__init__(self)

    def send(self, kind: str, document: Any, event_id: str = "1") -> None:
        """Send an event to all listeners."""
        text = f"event: {kind}\nid: {event_id}\ndata: {json.dumps(document)}\n\n"
        for each in self.listeners:
            each.write(text.encode())

    def hang_up(self) -> None:
        """End the stream of events of all listeners."""
        listeners, self.listeners = self.listeners, []
        for each in listeners:
            each.finish()

    def render(self, request: Request) -> bytes | int:
        asked = self._asked(request)
        self.requests.append(asked)
        if self.answers:
            return self._answer(request, self.answers.popleft())
        if asked.path == "/api/v1/events":
            request.setHeader(b"Content-Type", b"text/event-stream")
            self.listeners.append(request)
            request.notifyFinish().addErrback(lambda _: self._gone(request))
            self.send("summary", self.summary, "0")
            return NOT_DONE_YET
        return self._answer(request, self._found(asked))

    def _gone(self, request: Request) -> None:
        if request in self.listeners:
            self.listeners.remove(request)

    def _found(self, asked: Asked) -> Canned:
        _, _, rest = asked.path.partition("/api/v1/")
        if rest == "summary":
            return Canned(200, {"code": 200, "summary": self.summary})
        if rest == "tasks/failures":
            return Canned(
                200, {"code": 200, "failures": [{"reason": "A answered 500", "count": 12}]}
            )
        if rest == "tasks.csv":
            rows = "".join(f"{each['taskId']},{each['state']}\r\n" for each in self.tasks)
            return Canned(200, f"taskId,state\r\n{rows}".encode(), CSV)
        if rest == "tasks.jsonl":
            lines = "".join(json.dumps(each) + "\n" for each in self.tasks)
            return Canned(200, lines.encode(), {"Content-Type": "application/jsonl"})
        if rest == "tasks" or rest.endswith("/task"):
            return self._page(asked)
        if rest.startswith("tasks/"):
            for each in self.tasks:
                if each["taskId"] == rest.removeprefix("tasks/"):
                    return Canned(200, {"code": 200, "task": each})
            return Canned(404, {"code": 404, "message": "The requested task is not found"})
        return Canned(404, {"code": 404, "message": "There is nothing at this path"})

    def _page(self, asked: Asked) -> Canned:
        query = dict(asked.query)
        limit, before = int(query.get("limit", "20")), query.get("before")
        ids = [each["taskId"] for each in self.tasks]
        start = 0 if before is None else ids.index(before) + 1
        page = self.tasks[start : start + limit]
        more = start + limit < len(self.tasks)
        following = f"{asked.path}?limit={limit}&before={page[-1]['taskId']}" if more else None
        return Canned(200, {"code": 200, "tasks": page, "next": following})

    def _asked(self, request: Request) -> Asked:
        headers = {
            name.decode().lower(): values[-1].decode()
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        query = [
            (name.decode(), value.decode())
            for name, values in request.args.items()
            for value in values
        ]
        assert request.content is not None
        path, method = request.path.decode(), request.method.decode()
        return Asked(method, path, query, headers, request.content.read())

    def _answer(self, request: Request, answer: Canned) -> bytes:
        request.setResponseCode(answer.status)
        for name, value in answer.headers.items():
            request.setHeader(name.encode(), value.encode())
        if isinstance(answer.document, bytes):
            return answer.document
        request.setHeader(b"Content-Type", b"application/json")
        return json.dumps(answer.document).encode()

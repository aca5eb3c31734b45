"""``traceparent`` (W3C Trace Context), from the client's POST to the call to A."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Request

from rtprov.http.site import JsonSite
from rtprov.messaging.event_messages import encode_task
from rtprov.model import Task
from rtprov.tracing.traceparent import (
    own_traceparent,
    trace_id,
    traceparent_in,
    valid_traceparent,
)
from tests.support.system import REQUEST
from tests.support.system_case import SystemTestCase

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TASK = "0123456789abcdef0123456789abcdef"
MALFORMED = (
    "",
    "nonsense",
    GIVEN.upper(),
    GIVEN[:-1],
    f"{GIVEN}-more",
    f"ff{GIVEN[2:]}",
    f"00-{'0' * 32}-00f067aa0ba902b7-01",
    f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    f"{GIVEN}\n",
    f"01{GIVEN[2:]}-{'x' * 200}",
)


class Values(SynchronousTestCase):
    def test_valid(self) -> None:
        """One well-formed value is used as it is. Of a later version, the known part is used."""
        self.assertEqual(valid_traceparent([GIVEN]), GIVEN)
        self.assertEqual(valid_traceparent([f"cc{GIVEN[2:]}-more"]), GIVEN)
        self.assertEqual(trace_id(GIVEN), "4bf92f3577b34da6a3ce929d0e0e4736")

    def test_malformed(self) -> None:
        """Malformed values, none and several are not used."""
        for value in MALFORMED:
            self.assertIsNone(valid_traceparent([value]), value)
        self.assertIsNone(valid_traceparent([]))
        self.assertIsNone(valid_traceparent([GIVEN, GIVEN]))

    def test_in_a_message(self) -> None:
        """A message without a valid header has the task's own trace."""
        self.assertEqual(traceparent_in({"traceparent": GIVEN}, TASK), GIVEN)
        wrong: tuple[dict[str, object], ...] = ({}, {"traceparent": 7}, {"traceparent": "x"})
        for headers in wrong:
            self.assertEqual(traceparent_in(headers, TASK), own_traceparent(TASK))
        self.assertEqual(valid_traceparent([own_traceparent(TASK)]), own_traceparent(TASK))


class A(Resource):
    """Service A, which completes each order and keeps the ``traceparent`` of each call."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Sequence[str]] = []

    def render_POST(self, request: Request) -> bytes:
        self.seen.append(request.requestHeaders.getRawHeaders("traceparent", []))
        request.setHeader(b"Content-Type", b"application/json")
        return b'{"code":200,"message":"success"}'


class EndToEnd(SystemTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.a = A()
        site = JsonSite(self.a, reactor=cast("IReactorTime", self.system.clock))
        self.system.network.listen("a").listen(site)

    def post(self, **fields: str) -> str:
        """POST a task; return its id once A was called."""
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        path = "/api/v1/equipment/cpe/ABC123456"
        answer = self.system.request("POST", path, REQUEST, headers=headers)
        self.assertEqual(answer.status, 200, answer)
        self.system.network.advance(2)
        return cast("str", answer.json["taskId"])

    def test_given(self) -> None:
        """The client's value comes to A, through queue and worker, with a key or without."""
        self.post(traceparent=GIVEN)
        self.post(traceparent=GIVEN, Idempotency_Key="k")
        self.assertEqual(self.a.seen, [[GIVEN], [GIVEN]])

    def test_none(self) -> None:
        """Without a valid value, the task gets a trace of its own."""
        tasks = [self.post(), self.post(traceparent="nonsense"), self.post(Idempotency_Key="k")]
        self.assertEqual(self.a.seen, [[own_traceparent(task)] for task in tasks])
        for (value,) in self.a.seen:
            self.assertEqual(valid_traceparent([value]), value)

    def test_log(self) -> None:
        """The lines of a task's POST and of its end have its trace."""
        lines: list[LogEvent] = []
        observer = cast("ILogObserver", lines.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for fields in ({}, {"Idempotency_Key": "k"}):
            self.post(traceparent=GIVEN, **fields)
        ids = [
            (line["event"], line["trace"])
            for line in lines
            if str(line.get("event")).startswith("task.")
        ]
        trace = trace_id(GIVEN)
        self.assertEqual(ids, [("task.accepted", trace), ("task.completed", trace)] * 2)

    def test_message(self) -> None:
        """The value is a header of the message, not a part of its body."""
        bodies = [encode_task(task) for task in (task_with(GIVEN), task_with(None))]
        self.assertEqual(bodies[0], bodies[1])


def task_with(traceparent: str | None) -> Task:
    return Task(TASK, "ABC123456", 14, 1.0, "sealed", traceparent=traceparent)

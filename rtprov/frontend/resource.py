"""The HTTP resources of service B: tasks, lists of tasks, probes and documentation.

The handlers only connect other modules. `rtprov.order_body` validates a body,
`rtprov.frontend.submission` sends tasks to the broker, a `StatusSource` returns a task's state, a
`TaskQueries` returns its details, and `rtprov.http.responses` turns errors into answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

from klein import Klein
from twisted.internet.defer import Deferred, TimeoutError
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from rtprov.errors import (
    EquipmentMalformed,
    EquipmentNotFound,
    NoReply,
    ProvisioningFailed,
    TaskCancelled,
    TaskMalformed,
    TaskNotFound,
)
from rtprov.frontend.deadline import DEADLINE_S, Deadlines, deadline_of
from rtprov.frontend.final_states import FinalStates
from rtprov.frontend.headers import (
    answered_within_s,
    idempotency_key,
    preferred_wait_s,
    wait_for_end_s,
)
from rtprov.frontend.openapi import document_bytes
from rtprov.frontend.operators.routes import OperatorRequests, add_operator_routes
from rtprov.frontend.priority import urgency
from rtprov.frontend.query_parameters import arguments_of, no_parameters, parse_page, parse_reason
from rtprov.frontend.schemas import TaskAnswer, TasksAnswer, task_document
from rtprov.frontend.session_routes import add_session_routes
from rtprov.frontend.static_files import answer_file
from rtprov.frontend.submission import TaskSubmission
from rtprov.http.fast_lane import PlainRoutes
from rtprov.http.health import answer_alive, answer_ready
from rtprov.http.request import arrived_at, caller_of, check_media_type, json_resource, read_body
from rtprov.http.responses import answer, answer_bytes, answer_error, envelope
from rtprov.http.same_origin import SameOrigin
from rtprov.metrics.counting import FAST_S, Counts, Histogram
from rtprov.model import DEFAULT_URGENCY, Details, State, is_equipment_id, is_task_id
from rtprov.order_body import parse_request
from rtprov.readiness import Readiness
from rtprov.tracing.spans import NO_SPANS, Spans
from rtprov.tracing.traceparent import HEADER, valid_traceparent

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.resource import IResource

    from rtprov.interfaces import Completions, Sealer, StatusSource, TaskQueries, TaskSink

T = TypeVar("T")

POLL_AGAIN_S = 5

# An empty id matches, so that it gets the same 404 as any other malformed id.
_EQUIPMENT = "/api/v1/equipment/cpe/<string(minlength=0):equipment_id>"
_TASKS = f"{_EQUIPMENT}/task"
_TASK = f"{_TASKS}/<string(minlength=0):task_id>"
_ANY_TASK = "/api/v1/tasks/<string(minlength=0):task_id>"


class Frontend:
    """The routes of service B and their handlers.

    `new_task_id` returns unguessable ids of 32 lower-case hexadecimal digits; `wall_clock` returns
    seconds since the epoch. `running_status` is the HTTP status for a task that is still running:
    200, 202, or 204, which has no body. `operators` answers the requests of operators. `process_id`
    names this process in the details of the tasks that it accepts.
    """

    app = Klein()
    add_operator_routes(app)
    add_session_routes(app)

    def __init__(
        self,
        *,
        tasks: TaskSink,
        statuses: StatusSource,
        directory: TaskQueries,
        ends: Completions,
        readiness: Readiness,
        operators: OperatorRequests,
        sealer: Sealer,
        clock: IReactorTime,
        new_task_id: Callable[[], str],
        wall_clock: Callable[[], float],
        running_status: int,
        process_id: str | None = None,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._deadlines = Deadlines(clock)
        self._submission = TaskSubmission(
            tasks=tasks,
            directory=directory,
            sealer=sealer,
            deadlines=self._deadlines,
            new_task_id=new_task_id,
            wall_clock=wall_clock,
            process_id=process_id,
            spans=spans,
        )
        self._statuses = statuses
        self._directory = directory
        self._ends = ends
        self._readiness = readiness
        self.operators = operators
        self._clock = clock
        self._running_status = running_status
        self._finals = FinalStates(clock.seconds)
        self.status_seconds = Histogram(FAST_S)
        """How long workers took to answer questions for a status."""

    @property
    def accepted(self) -> Counts:
        """How many tasks were accepted, by caller."""
        return self._submission.accepted

    def resource(self) -> IResource:
        """Return the root resource, to be served by a `rtprov.http.site.JsonSite`."""
        plain = PlainRoutes(
            self.app, {(b"POST", _EQUIPMENT): "_submit", (b"GET", _TASK): "_status"}
        )
        return cast("IResource", SameOrigin(json_resource(self.app), plain))

    @app.handle_errors(Exception)
    def _on_error(self, request: IRequest, failure: Failure) -> bytes:
        return answer_error(request, failure)

    @app.route(_EQUIPMENT, methods=["POST"])
    async def _submit(self, request: IRequest, equipment_id: str) -> bytes:
        if not is_equipment_id(equipment_id):
            raise EquipmentMalformed
        check_media_type(request)
        key = idempotency_key(_fields(request, b"Idempotency-Key"))
        body = read_body(request)
        timeout_s = parse_request(body).timeout_s
        traceparent = valid_traceparent(_fields(request, HEADER.encode()))
        if key is None:
            task_id = await self._submission.submit(
                equipment_id,
                timeout_s,
                body,
                caller_of(request).name,
                _urgency(request),
                traceparent,
                deadline=deadline_of(request),
            )
        else:
            task_id = await self._submission.submit_idempotent(
                equipment_id,
                timeout_s,
                body,
                key,
                caller_of(request).name,
                _urgency(request),
                traceparent,
                deadline=deadline_of(request),
            )
            self._finals.forget(task_id, equipment_id)
        location = f"/api/v1/equipment/cpe/{equipment_id}/task/{task_id}"
        return answer(request, 200, {"code": 200, "taskId": task_id}, {"Location": location})

    @app.route(_TASK, methods=["GET"])
    async def _status(self, request: IRequest, equipment_id: str, task_id: str) -> bytes:
        _check_ids(equipment_id, task_id)
        wait_s = (
            preferred_wait_s(_fields(request, b"Prefer"))
            if request.requestHeaders.hasHeader(b"Prefer")
            else 0
        )
        arrived = arrived_at(request)
        within_s = min(DEADLINE_S, answered_within_s(wait_s)) if wait_s else DEADLINE_S
        state = self._finals.recall(task_id, equipment_id) or await self._ask(
            task_id, equipment_id, arrived + within_s
        )
        if wait_s and state is not None and not self._ends.full:
            request.setHeader(b"Preference-Applied", b"wait=%d" % wait_s)
            if state is State.RUNNING:
                state = await self._wait(task_id, equipment_id, wait_s, arrived)
        if state is State.COMPLETED:
            return answer(request, 200, envelope(200, "Completed"))
        if state is State.RUNNING:
            return self._answer_running(request)
        if state is State.FAILED:
            raise ProvisioningFailed
        if state is State.NOT_FOUND:
            raise EquipmentNotFound
        if state is State.CANCELLED:
            raise TaskCancelled
        raise TaskNotFound

    async def _wait(
        self, task_id: str, equipment_id: str, wait_s: int, arrived: float
    ) -> State | None:
        """Wait for a running task to end; if it does not, ask for its state once more.

        `arrived` is the clock's time at which the request arrived; the `wait_s` seconds begin then.
        """
        left_s = arrived + wait_for_end_s(wait_s) - self._clock.seconds()
        state = await self._ends.wait(task_id, equipment_id, max(0.0, left_s))
        if state is not None:
            return self._finals.remember(task_id, equipment_id, state)
        try:
            latest = self._clock.seconds() + DEADLINE_S
            return await self._ask(
                task_id, equipment_id, min(latest, arrived + answered_within_s(wait_s))
            )
        except _TooSlow:
            # There is no time for another question, so the first answer of this request stands.
            return State.RUNNING

    @app.route(_TASK, methods=["DELETE"])
    async def _cancel(self, request: IRequest, equipment_id: str, task_id: str) -> bytes:
        _check_ids(equipment_id, task_id)
        await self._submission.cancel(
            task_id,
            equipment_id,
            caller_of(request),
            parse_reason(_arguments(request)),
            deadline_of(request),
        )
        # A GET may be answered by a replica that has not seen the cancellation yet.
        self._finals.remember(task_id, equipment_id, State.CANCELLED)
        return answer(request, 200, envelope(200, "Cancelled"))

    @app.route(_ANY_TASK, methods=["GET"])
    async def _details(self, request: IRequest, task_id: str) -> bytes:
        if not is_task_id(task_id):
            raise TaskMalformed
        no_parameters(_arguments(request))
        details = await self.in_time(request, Deferred.fromCoroutine(self._find(task_id)))
        if details is None:
            raise TaskNotFound
        return answer(request, 200, TaskAnswer(200, task_document(details)))

    async def _find(self, task_id: str) -> Details | None:
        """Return the task of this id, from the workers' histories if it was forgotten."""
        found = await self._directory.find(task_id)
        return found or await self.operators.tasks.past(task_id)

    @app.route(_TASKS, methods=["GET"])
    async def _list(self, request: IRequest, equipment_id: str) -> bytes:
        if not is_equipment_id(equipment_id):
            raise EquipmentMalformed
        limit, before = parse_page(_arguments(request))
        tasks = await self.in_time(
            request, self._directory.tasks_of(equipment_id, before, limit + 1)
        )
        following = None
        if len(tasks) > limit:
            tasks = tasks[:limit]
            following = (
                f"/api/v1/equipment/cpe/{equipment_id}/task"
                f"?limit={limit}&before={tasks[-1].task_id}"
            )
        headers = {} if following is None else {"Link": f'<{following}>; rel="next"'}
        return answer(
            request,
            200,
            TasksAnswer(200, [task_document(task) for task in tasks], following),
            headers,
        )

    @app.route("/livez", methods=["GET"])
    def _live(self, request: IRequest) -> bytes:
        return answer_alive(request)

    @app.route("/readyz", methods=["GET"])
    async def _ready(self, request: IRequest) -> bytes:
        ready = Deferred.fromCoroutine(answer_ready(request, self._readiness))
        return await self.in_time(request, ready)

    @app.route("/openapi.json", methods=["GET"])
    def _openapi(self, request: IRequest) -> bytes:
        return answer_bytes(request, b"application/json", document_bytes())

    @app.route("/docs", methods=["GET"])
    def _docs(self, request: IRequest) -> bytes:
        return answer_file(request, "docs.html")

    @app.route("/ui", methods=["GET"])
    def _to_page(self, request: IRequest) -> bytes:
        return answer(request, 308, envelope(308, "See /ui/"), {"Location": "/ui/"})

    @app.route("/ui/", methods=["GET"])
    def _page(self, request: IRequest) -> bytes:
        return answer_file(request, "ui/index.html")

    @app.route("/ui/<path:name>", methods=["GET"])
    def _file(self, request: IRequest, name: str) -> bytes:
        return answer_file(request, f"ui/{name}")

    def in_time(self, request: IRequest, asked: Deferred[T]) -> Deferred[T]:
        """Let `asked` fail with `NoReply` if the request must be answered before."""
        return self._deadlines.limit(asked, deadline_of(request)).addErrback(_too_late)

    async def _ask(self, task_id: str, equipment_id: str, deadline: float) -> State | None:
        """Ask a worker for the task's state.

        Raises `_TooSlow` if the answer has not come by the clock's time `deadline`.
        """
        began = self._clock.seconds()
        asked: Deferred[State | None] = self._statuses.status(task_id, equipment_id)
        try:
            state = await self._deadlines.limit(asked, deadline)
        except TimeoutError:
            raise _TooSlow("The worker did not return the task's status in time") from None
        self.status_seconds.observe(self._clock.seconds() - began)
        if state is None or not state.final:
            # Another request may have received the final state in the meantime.
            return self._finals.recall(task_id, equipment_id) or state
        return self._finals.remember(task_id, equipment_id, state)

    def _answer_running(self, request: IRequest) -> bytes:
        body = answer(
            request,
            self._running_status,
            envelope(204, "Task is still running"),
            {"Retry-After": str(POLL_AGAIN_S)},
        )
        if self._running_status != 204:
            return body
        # A 204 has no content (RFC 9110 §15.3.5), so it has no headers that describe content.
        request.responseHeaders.removeHeader(b"Content-Length")
        request.responseHeaders.removeHeader(b"Content-Type")
        return b""


class _TooSlow(NoReply):
    """The worker did not answer within the given time."""


def _too_late(reason: Failure) -> NoReturn:
    reason.trap(TimeoutError)
    raise NoReply("The worker did not answer in time") from None


def _fields(request: IRequest, name: bytes) -> list[str]:
    values = request.requestHeaders.getRawHeaders(name) or []
    return [value.decode("latin-1").strip() for value in values]


def _urgency(request: IRequest) -> int:
    if not request.requestHeaders.hasHeader(b"Priority"):
        return DEFAULT_URGENCY
    return urgency(_fields(request, b"Priority"))


def _check_ids(equipment_id: str, task_id: str) -> None:
    if not is_equipment_id(equipment_id):
        raise EquipmentMalformed
    if not is_task_id(task_id):
        raise TaskMalformed


def _arguments(request: IRequest) -> Mapping[bytes, Sequence[bytes]]:
    """Return the parameters in the request's query."""
    return arguments_of(cast("bytes", request.uri))

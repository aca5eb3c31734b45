"""Service B, the front end: takes a task, answers with a receipt, and tells a task's status.

A thin layer: the rules of a body are `rtprov.body`'s, the way to the broker is a `TaskSink`'s, the state a `StatusSource`'s, the answers to
failures `rtprov.http`'s.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from klein import Klein
from twisted.internet.defer import Deferred, TimeoutError
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from rtprov.audit import audited
from rtprov.body import parse_request
from rtprov.errors import EquipmentNotFound, NoReply, ProvisioningFailed, TaskNotFound, Unconfirmed
from rtprov.http import answer, answer_error, caller_of, check_media_type, envelope, json_resource, read_body
from rtprov.model import State, Task, is_equipment_id, is_task_id

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.resource import IResource

    from rtprov.interfaces import Sealer, StatusSource, TaskSink

DEADLINE_S = 4.5  # B answers within 5 s, whatever is broken behind it
POLL_AGAIN_S = 5
MAX_REMEMBERED = 100_000

# An id may be empty here: it is malformed then, like any other that is.
_EQUIPMENT = "/api/v1/equipment/cpe/<string(minlength=0):equipment_id>"
_TASK = f"{_EQUIPMENT}/task/<string(minlength=0):task_id>"


class Frontend:
    """B's two resources.

    `new_task_id` makes ids of 32 lower-case hexadecimal digits that nobody can guess; `wall_clock` gives seconds since the epoch;
    `running_status` is the HTTP status of a task that still runs: 200, 202, or 204, which carries no body.
    """

    app = Klein()

    def __init__(
        self,
        *,
        tasks: TaskSink,
        statuses: StatusSource,
        sealer: Sealer,
        clock: IReactorTime,
        new_task_id: Callable[[], str],
        wall_clock: Callable[[], float],
        running_status: int,
    ) -> None:
        self._tasks = tasks
        self._statuses = statuses
        self._sealer = sealer
        self._clock = clock
        self._new_task_id = new_task_id
        self._wall_clock = wall_clock
        self._running_status = running_status
        # Final states never change: remembering the latest spares the broker the polls that come after them.
        self._remembered: OrderedDict[tuple[str, str], State] = OrderedDict()

    def resource(self) -> IResource:
        """What a `rtprov.http.JsonSite` serves."""
        return json_resource(self.app)

    @app.handle_errors(Exception)
    def _on_error(self, request: IRequest, failure: Failure) -> bytes:
        return answer_error(request, failure)

    @app.route(_EQUIPMENT, methods=["POST"])
    async def _submit(self, request: IRequest, equipment_id: str) -> bytes:
        if not is_equipment_id(equipment_id):
            raise EquipmentNotFound
        check_media_type(request)
        body = read_body(request)
        order = parse_request(body)
        task = Task(self._new_task_id(), equipment_id, order.timeout_s, self._wall_clock(), self._sealer.seal(body))
        try:
            await audited(self._tasks.submit(task), task, caller_of(request)).addTimeout(DEADLINE_S, self._clock)
        except TimeoutError:
            raise Unconfirmed("The broker did not confirm the task in time") from None
        location = f"/api/v1/equipment/cpe/{equipment_id}/task/{task.task_id}"
        return answer(request, 200, {"code": 200, "taskId": task.task_id}, {"Location": location})

    @app.route(_TASK, methods=["GET"])
    async def _status(self, request: IRequest, equipment_id: str, task_id: str) -> bytes:
        if not is_equipment_id(equipment_id):
            raise EquipmentNotFound
        if not is_task_id(task_id):
            raise TaskNotFound
        state = self._remembered.get((task_id, equipment_id)) or await self._ask(task_id, equipment_id)
        if state is State.COMPLETED:
            return answer(request, 200, envelope(200, "Completed"))
        if state is State.RUNNING:
            return self._answer_running(request)
        if state is State.FAILED:
            raise ProvisioningFailed
        if state is State.NOT_FOUND:
            raise EquipmentNotFound
        raise TaskNotFound

    async def _ask(self, task_id: str, equipment_id: str) -> State | None:
        asked: Deferred[State | None] = self._statuses.status(task_id, equipment_id)
        try:
            state = await asked.addTimeout(DEADLINE_S, self._clock)
        except TimeoutError:
            raise NoReply("The worker did not tell the task's status in time") from None
        if state is None or not state.final:
            return self._remembered.get((task_id, equipment_id), state)  # another request may have learned of the end meanwhile
        self._remembered[task_id, equipment_id] = state
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return state

    def _answer_running(self, request: IRequest) -> bytes:
        body = answer(request, self._running_status, envelope(204, "Task is still running"), {"Retry-After": str(POLL_AGAIN_S)})
        if self._running_status != 204:
            return body
        # RFC 9110 §15.3.5: a 204 has no content, so nothing that describes one either.
        request.responseHeaders.removeHeader("Content-Length")
        request.responseHeaders.removeHeader("Content-Type")
        return b""

"""The routes of the requests that operators make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from attrs import frozen
from twisted.internet.defer import Deferred

from rtprov.frontend.operators.events import answer_events
from rtprov.frontend.operators.schemas import SummaryAnswer
from rtprov.frontend.query_parameters import arguments_of, no_parameters
from rtprov.http.responses import answer

if TYPE_CHECKING:
    from klein import Klein
    from twisted.web.iweb import IRequest

    from rtprov.frontend.operators.event_hub import EventHub
    from rtprov.frontend.operators.summary import Summaries
    from rtprov.frontend.operators.task_search import TaskSearches

T = TypeVar("T")


@frozen
class OperatorRequests:
    """What answers the requests of operators."""

    summaries: Summaries
    tasks: TaskSearches
    events: EventHub


class _Frontend(Protocol):
    """The object whose app the routes are added to."""

    operators: OperatorRequests

    def in_time(self, request: IRequest, asked: Deferred[T]) -> Deferred[T]:
        """Let `asked` fail with `NoReply` if the request must be answered before."""
        ...


def add_operator_routes(app: Klein) -> None:
    """Add the routes to the front end's."""

    @app.route("/api/v1/summary", methods=["GET"])
    async def summary(frontend: _Frontend, request: IRequest) -> bytes:
        no_parameters(arguments_of(cast("bytes", request.uri)))
        summary = await frontend.in_time(request, frontend.operators.summaries.current())
        return answer(request, 200, SummaryAnswer(200, summary))

    @app.route("/api/v1/tasks", methods=["GET"])
    async def tasks(frontend: _Frontend, request: IRequest) -> bytes:
        return await frontend.operators.tasks.page(request)

    @app.route("/api/v1/tasks/failures", methods=["GET"])
    async def failures(frontend: _Frontend, request: IRequest) -> bytes:
        failures = frontend.operators.tasks.failures(request)
        return await frontend.in_time(request, Deferred.fromCoroutine(failures))

    @app.route("/api/v1/tasks.csv", methods=["GET"])
    async def tasks_csv(frontend: _Frontend, request: IRequest) -> bytes:
        return await frontend.operators.tasks.csv(request)

    @app.route("/api/v1/tasks.jsonl", methods=["GET"])
    async def tasks_jsonl(frontend: _Frontend, request: IRequest) -> bytes:
        return await frontend.operators.tasks.jsonl(request)

    @app.route("/api/v1/events", methods=["GET"])
    async def events(frontend: _Frontend, request: IRequest) -> bytes:
        return await answer_events(request, frontend.operators.events)

"""Requests for tasks of all devices: pages, downloads, and failures by reason."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

import msgspec
from attrs import evolve
from twisted.internet.defer import Deferred, DeferredList, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtprov.errors import BrokerError, NoReply, NoWorker, TaskNotFound, TooManyRequests
from rtprov.frontend.deadline import Deadlines, deadline_of
from rtprov.frontend.operators.download import ClientStalled, StreamedBody
from rtprov.frontend.operators.schemas import FailureDocument, FailuresAnswer, FoundAnswer
from rtprov.frontend.operators.task_filters import (
    cursor_text,
    failures_filter,
    search_page,
    task_filter,
)
from rtprov.frontend.query_parameters import arguments_of
from rtprov.frontend.schemas import TaskDocument, task_document, time_text
from rtprov.http.request import abort_connection
from rtprov.http.responses import answer, encode
from rtprov.model import State
from rtprov.queries.merging import MergedSearch, first_tasks, uncovered
from rtprov.reports import Cursor, TaskFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from twisted.internet.interfaces import IReactorTime
    from twisted.web.iweb import IRequest

    from rtprov.interfaces import ShardReports, TaskQueries
    from rtprov.intervals import Interval
    from rtprov.model import Details
    from rtprov.reports import FoundTask

# With the deadline of a question, a page is answered within the 5 s that the contract gives.
ASK_FOR_S = 2.0
PIECE = 200  # tasks of a shard in one piece of a download
MAX_DOWNLOADS = 4
LOST_S = 60.0  # a download is cut off if this much time is no longer covered by a history
AGAIN_AFTER_S = 5
INCOMPLETE = "Rtprov-Incomplete"

_NESTED = ("waitsFor", "attempts")
COLUMNS = [
    field.encode_name
    for field in msgspec.structs.fields(TaskDocument)
    if field.encode_name not in _NESTED
]


class TaskSearches:
    """Answers the requests for tasks of all devices.

    `reports` asks the workers, `directory` finds single tasks.
    """

    _log = Logger()

    def __init__(
        self, *, reports: ShardReports, directory: TaskQueries, clock: IReactorTime
    ) -> None:
        self._reports = reports
        self._directory = directory
        self._clock = clock
        self._deadlines = Deadlines(clock)
        self._downloads = 0

    async def page(self, request: IRequest) -> bytes:
        """Answer with one page of tasks. Raises `InvalidQuery`, `NoWorker`, `BrokerError`."""
        searched = Deferred.fromCoroutine(self._page(request))
        try:
            return await self._deadlines.limit(searched, deadline_of(request))
        except TimeoutError:
            raise NoReply("The worker did not answer in time") from None

    async def _page(self, request: IRequest) -> bytes:
        arguments = arguments_of(cast("bytes", request.uri))
        wanted, limit, before = search_page(arguments)
        until = self._clock.seconds() + ASK_FOR_S
        start = await self._position(before) if isinstance(before, str) else before
        search = MergedSearch(self._reports, wanted, start, limit + 1)
        tasks = await first_tasks(search, limit + 1, lambda: self._clock.seconds() < until)
        upto = None
        if len(tasks) > limit:
            tasks = tasks[:limit]
            upto = tasks[-1].cursor
        elif not search.ended:
            upto = search.position
        following = None if upto is None else _next_page(arguments, limit, upto)
        headers = {} if following is None else {"Link": f'<{following}>; rel="next"'}
        return answer(
            request,
            200,
            FoundAnswer(
                200,
                _documents(tasks),
                following,
                _incomplete(search, 0.0 if upto is None else upto.at),
            ),
            headers,
        )

    async def past(self, task_id: str) -> Details | None:
        """Return a task that the workers have in their histories only, None if none has it.

        Raises `NoWorker` or `BrokerError`.
        """
        until = self._clock.seconds() + ASK_FOR_S
        search = MergedSearch(self._reports, TaskFilter(task_ids=(task_id,)), None, 1)
        while not search.ended and self._clock.seconds() < until:
            for task in await search.more():
                # Workers of earlier versions keep no history, and do not know this filter.
                return task.details if task.details.task_id == task_id else None
        if not search.ended or search.incomplete:
            raise NoReply("The workers could not search all of their histories in time")
        return None

    async def _position(self, task_id: str) -> Cursor:
        """Return the position of a task. Raises `TaskNotFound`."""
        details = await self._directory.find(task_id) or await self.past(task_id)
        if details is None or details.requested_at is None:
            raise TaskNotFound
        return Cursor(details.requested_at, task_id)

    async def failures(self, request: IRequest) -> bytes:
        """Answer with the numbers of failed tasks by reason.

        A request that names states gets those. Raises as `page` does.
        """
        wanted = failures_filter(arguments_of(cast("bytes", request.uri)))
        if not wanted.states:
            wanted = evolve(wanted, states=(State.FAILED.value,))
        names = self._reports.shards
        counts: Counter[str] = Counter()
        incomplete: list[str] = []
        errors: list[Failure] = []
        asked = [self._reports.reasons(index, wanted) for index in range(len(names))]
        for name, (worked, result) in zip(
            names, await DeferredList(asked, consumeErrors=True), strict=True
        ):
            if worked:
                counts.update(result.counts)
                incomplete += [] if result.whole else [name]
                incomplete += _named(name, uncovered(result.covered, wanted))
                continue
            error = cast("Failure", result)
            if error.check(BrokerError, NoWorker) is None:
                error.raiseException()
            incomplete.append(name)
            errors.append(error)
        if len(errors) == len(names):
            errors[-1].raiseException()
        ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
        failures = [FailureDocument(reason, count) for reason, count in ordered]
        return answer(request, 200, FailuresAnswer(200, failures, incomplete))

    async def csv(self, request: IRequest) -> bytes:
        """Answer with all tasks as CSV (RFC 4180), with a header line and without nested fields."""
        return await self._download(
            request, "text/csv; charset=utf-8", "tasks.csv", _header(), _rows
        )

    async def jsonl(self, request: IRequest) -> bytes:
        """Answer with all tasks as JSON, one a line."""
        return await self._download(request, "application/jsonl", "tasks.jsonl", b"", _lines)

    async def _download(
        self,
        request: IRequest,
        media_type: str,
        name: str,
        begin: bytes,
        encoded: Callable[[Sequence[TaskDocument]], bytes],
    ) -> bytes:
        wanted = task_filter(arguments_of(cast("bytes", request.uri)))
        if self._downloads >= MAX_DOWNLOADS:
            raise TooManyRequests(AGAIN_AFTER_S)
        self._downloads += 1
        try:
            search = MergedSearch(self._reports, wanted, None, PIECE)
            tasks = await search.more()
            request.setHeader(b"Content-Type", media_type.encode())
            request.setHeader(b"Content-Disposition", f'attachment; filename="{name}"'.encode())
            request.setHeader(b"Cache-Control", b"no-store")
            missing = _incomplete(search, 0.0)
            if missing:
                request.setHeader(INCOMPLETE.encode(), ", ".join(missing).encode())
            if request.method != b"HEAD":
                await self._send(request, search, begin + encoded(_documents(tasks)), encoded)
        finally:
            self._downloads -= 1
        return b""

    async def _send(
        self,
        request: IRequest,
        search: MergedSearch,
        begin: bytes,
        encoded: Callable[[Sequence[TaskDocument]], bytes],
    ) -> None:
        """Send the body. If it cannot be completed, close the connection: so the client sees it."""
        missing, uncovered_s = len(search.incomplete), _seconds(search)
        body = StreamedBody(request, self._clock)
        try:
            body.write(begin)
            while not search.ended:
                await body.ready()
                tasks = await search.more()
                if len(search.incomplete) > missing:
                    raise BrokerError(f"no answer for shard {search.incomplete[-1]}")
                if _seconds(search) > uncovered_s + LOST_S:
                    raise BrokerError("a worker's history cannot be read any more")
                body.write(encoded(_documents(tasks)))
        except (BrokerError, NoWorker, ClientStalled) as error:
            self._log.warn(
                "{path}: a download was cut off, and its connection closed: {error}",
                path=request.path.decode("ascii", "replace"),
                error=error,
            )
            abort_connection(request)
        finally:
            body.close()


def _documents(tasks: Iterable[FoundTask]) -> list[TaskDocument]:
    return [task_document(each.details) for each in tasks]


def _incomplete(search: MergedSearch, oldest: float) -> list[str]:
    """Return what is missing in an answer whose oldest task was accepted at `oldest`."""
    found = sorted(search.incomplete)
    for shard, times in sorted(search.uncovered(oldest).items()):
        found += _named(shard, times)
    return found


def _named(shard: str, times: Sequence[Interval]) -> list[str]:
    """Return names of times of a shard from which no live worker has all tasks."""
    return [
        f"{shard} before {time_text(upto)}"
        if since <= 0.0
        else f"{shard} from {time_text(since)} to {time_text(upto)}"
        for since, upto in times
    ]


def _seconds(search: MergedSearch) -> float:
    """Return how much time is not covered by any history."""
    return sum(upto - since for times in search.uncovered(0.0).values() for since, upto in times)


def _next_page(arguments: Any, limit: int, upto: Cursor) -> str:
    """Return the URL of the next page of the same search."""
    kept = [
        (name, value)
        for name, values in arguments.items()
        if name not in (b"limit", b"before", b"")
        for value in values
    ]
    query = urlencode([*kept, ("limit", limit), ("before", cursor_text(upto))], quote_via=quote)
    return f"/api/v1/tasks?{query}"


def _header() -> bytes:
    return (",".join(COLUMNS) + "\r\n").encode()


def _rows(documents: Sequence[TaskDocument]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    for document in documents:
        values = msgspec.to_builtins(document)
        writer.writerow(["" if values[name] is None else values[name] for name in COLUMNS])
    return text.getvalue().encode()


def _lines(documents: Sequence[TaskDocument]) -> bytes:
    return b"".join(encode(each) + b"\n" for each in documents)

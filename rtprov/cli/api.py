"""Requests to the front end.

An answer of 429 or 503 with ``Retry-After`` is waited for, if the request can be repeated: a GET, a
DELETE, or a POST with an ``Idempotency-Key``. Any other error ends the verb.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlencode

from attrs import field, frozen
from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.internet.task import Cooperator, deferLater
from twisted.web.client import FileBodyProducer, RequestTransmissionFailed, ResponseFailed
from twisted.web.http_headers import Headers

from rtprov import __version__
from rtprov.cli.answer import Answer, cursor_of, missing_in, printable
from rtprov.cli.body import BodyStream, Stalled, TooLong, read_all
from rtprov.cli.failures import OutOfReach, Status, VerbFailed, status_of
from rtprov.network.hosts import for_treq

if TYPE_CHECKING:
    from treq.client import HTTPClient
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.iweb import IResponse

API = "/api/v1"
# The front end answers within 5 s. Connecting fails after 10 s. So a request that was not answered
# within this time has been sent.
ANSWER_WITHIN_S = 15.0
SILENT_FOR_S = 60.0  # a stream sends something every 15 s
RETRY_FOR_S = 30.0
DEFAULT_PAUSE_S = 1.0
MAX_PAUSE_S = 3600.0
MAX_PAGE = 100
# Errors of a request of which at least a part was written.
WRITTEN = (RequestTransmissionFailed, ResponseFailed)
INCOMPLETE = "Rtprov-Incomplete"  # shards that a download lacks
# The alerts of TLS by which the server refuses the client's certificate, or asks for one.
_CERTIFICATE_REFUSED = re.compile(
    r"\balert (certificate|bad certificate|unsupported certificate|unknown ca)\b"
)
_REPEATABLE = ("GET", "DELETE")

T = TypeVar("T")
Query = Iterable[tuple[str, str]]


@frozen
class Api:
    """The front end at `url`, called with `http`.

    `token` is the bearer token, if there is one. `explain` turns an error of the connection into a
    text for the operator. `tell` is called with a text before each pause; `now` is the time of day,
    in seconds since the epoch. 429 and 503 are waited for up to `retry_for_s` seconds.
    """

    http: HTTPClient
    url: str
    clock: IReactorTime
    now: Callable[[], float]
    token: str | None = field(default=None, repr=False)
    explain: Callable[[BaseException], str] = str
    tell: Callable[[str], None] = lambda text: None
    retry_for_s: float = RETRY_FOR_S

    async def get(self, path: str, query: Query = ()) -> Any:
        """Return the document of a successful GET. Raises `VerbFailed`."""
        return (await self.ask("GET", path, query)).document

    def part(self, document: Any, name: str, kind: type[T]) -> T:
        """Return the field `name` of an answer, which is of this kind; a list is one of objects.

        Raises `OutOfReach` if it is not: the answer is another service's.
        """
        found = document.get(name) if isinstance(document, dict) else None
        each_of = found if isinstance(found, list) else ()
        if not isinstance(found, kind) or not all(isinstance(each, dict) for each in each_of):
            raise OutOfReach(
                f"{self.url}: the answer has no {name}: is this service B of rtprov?", sent=True
            )
        return found

    async def ask(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        within_s: float = ANSWER_WITHIN_S,
        accept: Iterable[int] = (),
    ) -> Answer:
        """Send a request, and repeat it as the front end asks; return its answer.

        Raises `VerbFailed` for an HTTP status of 300 and more that is not in `accept`.
        """
        fields = dict(headers or {})
        repeatable = method in _REPEATABLE or "Idempotency-Key" in fields
        deadline = self.clock.seconds() + self.retry_for_s
        while True:
            answer = await self._once(method, path, query, body, fields, within_s)
            if answer.status < 300 or answer.status in accept:
                return answer
            refused = answer.status == 429  # nothing was done, so any request can be repeated
            pause_s = self.pause_s(answer)
            if (
                not (refused or (repeatable and answer.status == 503))
                or pause_s is None
                or self.clock.seconds() + pause_s > deadline
            ):
                raise VerbFailed(answer.message, status_of(answer.status))
            self.tell(f"{answer.message}; trying again in {pause_s:.0f} s")
            await deferLater(self.clock, pause_s)

    def pause_s(self, answer: Answer) -> float | None:
        """Return the seconds of ``Retry-After`` (RFC 9110 §10.2.3), None if there is no such field.

        It is a number of seconds or a date.
        """
        text = answer.header("Retry-After")
        if text is None:
            return None
        if text.isascii() and text.isdigit():
            return min(MAX_PAUSE_S, float(text))
        try:
            pause_s = parsedate_to_datetime(text).timestamp() - self.now()
        except (TypeError, ValueError, OverflowError):  # not a date, or a year too large for one
            return DEFAULT_PAUSE_S
        return min(MAX_PAUSE_S, max(0.0, pause_s))

    async def _once(
        self,
        method: str,
        path: str,
        query: Query,
        body: bytes | None,
        headers: Mapping[str, str],
        within_s: float,
    ) -> Answer:
        response = await self._send(method, path, query, body, headers, within_s)
        return await self._answer(response, within_s)

    async def _answer(self, response: IResponse, within_s: float) -> Answer:
        """Read an answer. Raises `VerbFailed` if it is none of service B's.

        Service B never redirects, but a proxy may, for example to its page for logging in.
        """
        status, headers = cast("int", response.code), cast("Headers", response.headers)
        try:
            content = await read_all(response, self.clock, within_s)
        except (Stalled, TooLong, ResponseFailed) as error:
            raise OutOfReach(f"{self.url}: {self.explain(error)}", sent=True) from None
        if 300 <= status < 400:
            location = Answer(status, None, headers).header("Location")
            to = f" to {printable(location)}" if location else ""
            raise VerbFailed(
                f"{self.url}: the answer is a redirection (HTTP {status}){to}: is this service B of"
                " rtprov?",
                Status.OUT_OF_REACH,
            )
        try:
            document = json.loads(content) if content else None
        except (ValueError, RecursionError):
            raise OutOfReach(
                f"{self.url}: the answer (HTTP {status}) is not JSON: is this service B of rtprov?",
                sent=True,
            ) from None
        return Answer(status, document, headers)

    async def _send(
        self,
        method: str,
        path: str,
        query: Query,
        body: bytes | None,
        headers: Mapping[str, str],
        within_s: float,
    ) -> IResponse:
        fields = Headers({"User-Agent": [f"rtprov/{__version__}"]})
        for name, value in headers.items():
            fields.setRawHeaders(name, [value])
        if self.token is not None:
            fields.setRawHeaders("Authorization", [f"Bearer {self.token}"])
        if body is not None:
            fields.setRawHeaders("Content-Type", ["application/json"])
        text = urlencode(list(query))
        base, host = for_treq(self.url)
        fields.setRawHeaders("Host", [host])
        asked = self.http.request(
            method,
            f"{base}{path}{'?' + text if text else ''}",
            headers=fields,
            data=None if body is None else self._producer(body),
            allow_redirects=False,
            unbuffered=True,
        )
        late: list[bool] = []

        def give_up() -> None:
            late.append(True)
            asked.cancel()

        timer = self.clock.callLater(within_s, give_up)
        try:
            return cast("IResponse", await asked)
        except Exception as error:  # connection errors have no common base class
            if late:
                raise OutOfReach(
                    f"{self.url}: no answer within {within_s:.0f} s", sent=True
                ) from None
            if was_cancelled(error):
                raise CancelledError from None
            text = f"{self.url}: {self.explain(error)}"
            if _CERTIFICATE_REFUSED.search(text):
                raise VerbFailed(text, Status.NOT_ALLOWED) from None
            sent = isinstance(error, WRITTEN) and not handshake_failed(error)
            raise OutOfReach(text, sent=sent) from None
        finally:
            if timer.active():
                timer.cancel()

    def _producer(self, body: bytes) -> FileBodyProducer:
        cooperator = Cooperator(scheduler=lambda work: self.clock.callLater(0, work))
        return FileBodyProducer(BytesIO(body), cooperator=cooperator)

    async def stream(
        self,
        path: str,
        query: Query = (),
        *,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> BodyStream:
        """Begin a GET whose answer has no end, or a long one; return its body.

        The caller closes it. Raises `VerbFailed`, also for an answer of another media type.
        """
        deadline = self.clock.seconds() + self.retry_for_s
        while True:
            response = await self._send("GET", path, query, None, headers or {}, ANSWER_WITHIN_S)
            if response.code < 300:
                head = Answer(response.code, None, response.headers)
                body = BodyStream.of(response, self.clock, SILENT_FOR_S)
                sent = (head.header("Content-Type") or "").partition(";")[0].strip().lower()
                if sent != media_type:
                    body.close()
                    raise OutOfReach(
                        f"{self.url}: the answer is not {media_type}: is this service B of rtprov?"
                    )
                missing = head.header(INCOMPLETE)
                self.tell_incomplete(missing.split(", ") if missing else ())
                return body
            answer = await self._answer(response, ANSWER_WITHIN_S)
            pause_s = self.pause_s(answer) if answer.status in (429, 503) else None
            if pause_s is None or self.clock.seconds() + pause_s > deadline:
                raise VerbFailed(answer.message, status_of(answer.status))
            self.tell(f"{answer.message}; trying again in {pause_s:.0f} s")
            await deferLater(self.clock, pause_s)

    async def tasks(self, path: str, query: Query, limit: int | None) -> AsyncIterator[Any]:
        """Yield the documents of a list, page by page, at most `limit`; None is all of them.

        A page may be empty and still have a next one. Raises `VerbFailed`.
        """
        left, before = limit, None
        missing: dict[str, None] = {}  # each entry once, in order
        wanted = [(name, value) for name, value in query if name != "before"]
        given = [(name, value) for name, value in query if name == "before"]
        while left is None or left > 0:
            size = MAX_PAGE if left is None else min(left, MAX_PAGE)
            page = [*wanted, ("limit", str(size))]
            page += given if before is None else [("before", before)]
            document = await self.get(path, page)
            tasks = self.part(document, "tasks", list)
            missing.update(dict.fromkeys(missing_in(document)))
            for each in tasks:
                yield each
            following = document.get("next")
            if not following:
                break
            reached, before = before, cursor_of(str(following))
            if before in (None, reached):  # it would be asked for the same page without end
                raise VerbFailed(
                    f"service B named the page that it had just sent as the next: {following}",
                    Status.OUT_OF_REACH,
                )
            left = None if left is None else left - len(tasks)
        self.tell_incomplete(missing)

    def tell_incomplete(self, missing: Iterable[str]) -> None:
        """Say which shards are missing in an answer, because no live worker covers them."""
        names = list(missing)
        if names:
            self.tell(f"no live worker answers for: {json.dumps(names)}; their tasks are missing")


def was_cancelled(error: BaseException) -> bool:
    """Return whether an error of Twisted's HTTP client means that the request was cancelled."""
    if isinstance(error, WRITTEN):
        return any(was_cancelled(each.value) for each in error.reasons)
    return isinstance(error, CancelledError)


def handshake_failed(error: RequestTransmissionFailed | ResponseFailed) -> bool:
    """Return whether the server ended TLS, for lack of a client certificate, and read nothing."""
    return any(isinstance(each.value, SSL.Error) for each in error.reasons)

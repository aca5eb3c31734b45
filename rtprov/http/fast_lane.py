"""The fast lane: one expression reads a plain request, and one write answers it.

Twisted's parser, `Request` and Klein's routing cost three times as much as the handlers of the
two busiest routes. A request is *plain* if

- it arrives as a whole in one piece of data, on a connection that waits for a request,
- its method and path are those of a `PlainRoutes`, without a query,
- it is HTTP/1.1 with one valid ``Host``, and no field that changes how it is read
  (`CHANGES_READING`), comes twice, or has a value other than printable ASCII.

A plain request goes to the same Klein handler, through the same admission, and its errors through
the same table. Every other request is left to Twisted, from its first byte. So whatever is not
certain here is decided there, and both ways give the same answers; ``tests/http/test_fast_lane.py``
compares them.

Only public names of Twisted and Klein are used.
"""

from __future__ import annotations

import io
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.python import log
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES, datetimeToString
from twisted.web.http_headers import Headers

from rtprov.errors import RtprovError
from rtprov.http.channel import LimitedChannel
from rtprov.http.head import is_host
from rtprov.http.request import MAX_BODY_BYTES
from rtprov.http.responses import answer_error, phrase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from klein import Klein
    from twisted.web.iweb import IRequest

    from rtprov.http.admission import Caller
    from rtprov.http.traffic import Traffic

MAX_HEAD_BYTES = 4096
MAX_FIELDS = 50

# The fields with which a request is read, framed or checked in another way than without them.
CHANGES_READING = frozenset(
    {
        b"content-encoding",
        b"cookie",
        b"expect",
        b"http2-settings",
        b"keep-alive",
        b"origin",
        b"proxy-connection",
        b"sec-fetch-site",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 §5.6.2
_VALUE = rb"[!-~](?:[ -~]*[!-~])?"
_HEAD = re.compile(
    rb"(GET|POST) (/[!-~]*) HTTP/1\.1\r\n((?:%s: *%s *\r\n)+)\r\n" % (_NAME, _VALUE)
).match
_FIELDS = re.compile(rb"([^:]+): *(%s) *\r\n" % _VALUE).findall
_PLACEHOLDER = re.compile(r"<[^:>]+:(\w+)>")

_date = lru_cache(maxsize=1)(datetimeToString)


class PlainHead(NamedTuple):
    """The head of a plain request, and what follows it."""

    method: bytes
    path: bytes
    headers: Headers
    body: bytes


def read_plain(data: bytes) -> PlainHead | None:
    """Return the one request that `data` consists of; None if it is not certainly plain."""
    match = _HEAD(data)
    if match is None or match.end() > MAX_HEAD_BYTES:
        return None
    method, path, block = match.groups()
    fields = _FIELDS(block)
    if len(fields) > MAX_FIELDS:
        return None
    headers, seen = Headers(), {}
    for name, value in fields:
        name = name.lower()
        if name in seen or name in CHANGES_READING:
            return None
        seen[name] = value
        headers.addRawHeader(name, value)
    if seen.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    if b"host" not in seen or not is_host(seen[b"host"], may_be_empty=True):
        return None
    body = data[match.end() :]
    length = seen.get(b"content-length")
    if method == b"GET":
        complete = length is None and not body
    else:
        complete = length == b"%d" % len(body) and 0 < len(body) <= MAX_BODY_BYTES
    return PlainHead(method, path, headers, body) if complete else None


class PlainRoutes:
    """The routes of a Klein app that take plain requests.

    `endpoints` maps method and rule, as they are given to ``Klein.route``, to the name of the
    handler. The variable parts of a path match only letters and digits here; any other value is
    left to Klein.
    """

    def __init__(self, app: Klein, endpoints: Mapping[tuple[bytes, str], str]) -> None:
        self.app = app
        self.endpoints = endpoints
        self._routes: dict[bytes, list[tuple[Callable[[bytes], re.Match[bytes] | None], str]]] = {}
        for (method, rule), endpoint in endpoints.items():
            assert endpoint in app.endpoints, endpoint
            pattern = _PLACEHOLDER.sub(r"(?P<\1>[A-Za-z0-9]+)", rule)
            self._routes.setdefault(method, []).append(
                (re.compile(pattern.encode()).fullmatch, endpoint)
            )

    def handler(self, head: PlainHead) -> Callable[[IRequest], Deferred[bytes]] | None:
        """Return a function that calls the handler of this head's route; None if it has none."""
        for fullmatch, endpoint in self._routes.get(head.method, ()):
            match = fullmatch(head.path)
            if match is not None:
                arguments = {name: value.decode() for name, value in match.groupdict().items()}
                return lambda request: maybeDeferred(
                    cast("Any", self.app.execute_endpoint), endpoint, request, **arguments
                )
        return None


class _Site(Protocol):
    """What the fast lane needs of the site."""

    closing: bool
    timeout_s: float

    @property
    def plain_routes(self) -> PlainRoutes | None: ...
    @property
    def traffic(self) -> Traffic | None: ...
    def seconds(self) -> float: ...
    def request_begins(self) -> None: ...
    def request_ends(self) -> None: ...


class FastLaneChannel(LimitedChannel):
    """A connection with a fast lane for plain requests.

    The timer of the connection is not touched by plain requests. When it fires, it is set again for
    the rest of the time since the last of them.
    """

    site: _Site
    _plain_ended_at = 0.0

    def connectionMade(self) -> None:
        super().connectionMade()
        transport = cast("Any", self.transport)
        self.write_now = getattr(transport, "write_now", transport.write)

    @property
    def arrived_at(self) -> float:
        """See `rtprov.http.request.Connection.arrived_at`."""
        raise NotImplementedError

    def admit(self, headers: Headers) -> Caller:
        """See `rtprov.http.request.Connection.admit`."""
        raise NotImplementedError

    def note_refusal(self, request: Any, status: int, error: BaseException) -> None:
        """See `rtprov.http.request.Connection.note_refusal`."""
        raise NotImplementedError

    def dataReceived(self, data: bytes) -> None:
        routes = self.site.plain_routes
        if routes is not None and self.waits_for_request and not self.site.closing:
            head = read_plain(data)
            handler = None if head is None else routes.handler(head)
            if head is not None and handler is not None:
                request = PlainRequest(self, head)
                self.begun = True
                self.requests.append(request)
                self.hold_requests()
                self.site.request_begins()
                request.process(handler)
                return
        super().dataReceived(data)

    def plain_done(self) -> None:
        """Called when the plain request is answered."""
        del self.requests[0]
        self._plain_ended_at = self.site.seconds()
        self.site.request_ends()
        if self.persistent:
            self.next_request()
        else:
            self.loseConnection()

    def timeoutConnection(self) -> None:
        # Twisted has no timer for its own requests under way.
        ended_at = self.site.seconds() if self.requests else self._plain_ended_at
        left_s = ended_at + self.site.timeout_s - self.site.seconds()
        if self.arriving or left_s <= 0:
            super().timeoutConnection()
            return
        self.setTimeout(left_s)
        self.timeOut = cast("int", self.site.timeout_s)


class AnswerFields(dict[bytes, bytes]):
    """The header fields of an answer: the part of `Headers` that `rtprov` uses.

    Names have their usual form, such as ``Retry-After``. No value has a line break.
    """

    def setRawHeaders(self, name: bytes, values: Sequence[bytes]) -> None:
        (self[name],) = values

    def removeHeader(self, name: bytes) -> None:
        self.pop(name, None)


class PlainRequest:
    """A plain request, as a handler sees it: the part of `IRequest` that `rtprov` uses.

    `caller` is the admitted sender. `arrived_at` is as in `JsonRequest`.
    """

    __slots__ = (
        "_channel",
        "_running",
        "arrived_at",
        "caller",
        "code",
        "content",
        "method",
        "path",
        "requestHeaders",
        "responseHeaders",
    )
    startedWriting = False  # the whole answer is one write

    def __init__(self, channel: FastLaneChannel, head: PlainHead) -> None:
        self._channel: FastLaneChannel | None = channel
        self._running: Deferred[bytes] | None = None
        self.caller: Caller | None = None
        self.code = 200
        self.method, self.path, self.requestHeaders, body = head
        self.content = io.BytesIO(body)
        self.responseHeaders = AnswerFields()
        self.setHeader(b"Server", b"rtprov")
        self.setHeader(b"Date", _date(int(time.time())))

    def process(self, handler: Callable[[IRequest], Deferred[bytes]]) -> None:
        """Answer the request with what `handler` returns, or with a refusal."""
        assert self._channel is not None
        self.arrived_at = self._channel.arrived_at
        try:
            self.caller = self._channel.admit(self.requestHeaders)
            self.caller.check_method(self.method)
        except RtprovError as error:
            self._write(answer_error(self._as_request, Failure(error)))
            return
        self._running = running = handler(self._as_request)
        running.addCallbacks(self._write, self._failed)
        # Klein logs the same text for its own requests.
        running.addErrback(lambda reason: log.err(reason, "Unhandled Error writing response"))

    @property
    def _as_request(self) -> IRequest:
        return cast("IRequest", self)

    # For handlers.

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        self.code = code

    def setHeader(self, name: bytes, value: bytes) -> None:
        self.responseHeaders[name] = value

    def note_refusal(self, status: int, error: BaseException) -> None:
        """Called by `answer_error` when the answer is an error of the table."""
        if self._channel is not None:
            self._channel.note_refusal(self, status, error)

    # For the connection.

    def connectionLost(self, reason: Failure) -> None:
        """Cancel the handler: there is nobody to answer."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.site.request_ends()
        if self._running is not None:
            self._running.cancel()

    def _failed(self, failure: Failure) -> None:
        if self._channel is not None:
            self._write(answer_error(self._as_request, failure))
        elif not failure.check(CancelledError):
            log.err(failure, "Unhandled Error Processing Request.")

    def _write(self, body: bytes) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return  # the connection was lost
        if channel.site.traffic is not None:
            channel.site.traffic.answered(self.path, self.code, self.arrived_at)
        parts = [b"HTTP/1.1 %d %b\r\n" % (self.code, phrase(self.code).encode())]
        parts += [b"%b: %b\r\n" % field for field in self.responseHeaders.items()]
        parts.append(b"\r\n")
        if self.code not in NO_BODY_CODES:
            parts.append(body)
        channel.write_now(b"".join(parts))
        channel.plain_done()

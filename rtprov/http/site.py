"""The HTTP site of front end and stub: every answer is JSON, also for invalid requests.

`JsonSite` serves a Klein resource. Requests that Twisted would answer in HTML, in plain text or not
at all (RFC 9110 §15) get the envelope of `rtprov.http.responses`. The checks of each request are in
`rtprov.http.request`, the limits of a connection in `rtprov.http.channel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from rtprov.errors import BodyTooLarge, RtprovError
from rtprov.http.admission import Admission, Caller, caller_at
from rtprov.http.fast_lane import FastLaneChannel, PlainRoutes
from rtprov.http.refusals import STATUSES, Refusals
from rtprov.http.request import MAX_BODY_BYTES, JsonRequest
from rtprov.http.responses import answer_error, answer_for, encode, envelope, phrase
from rtprov.http.same_origin import SameOrigin
from rtprov.http.traffic import Traffic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.http_headers import Headers
    from twisted.web.resource import IResource

IDLE_TIMEOUT_S = 60  # for a request to arrive as a whole, and between two requests


class JsonChannel(FastLaneChannel):
    """A connection that refuses invalid and unauthorized requests with errors in JSON."""

    site: JsonSite
    refused = False
    _caller: Caller | None = None
    _held_at = 0.0  # when the last data arrived while the site answered no request
    _opening = False  # whether the request that is read now is one that the site has held

    @property
    def admission(self) -> Admission | None:
        """See `rtprov.http.request.Connection.admission`."""
        return self.site.admission

    @property
    def arrived_at(self) -> float:
        """See `rtprov.http.request.Connection.arrived_at`."""
        return self._held_at if self._opening else self.site.seconds()

    def admit(self, headers: Headers) -> Caller:
        """See `rtprov.http.request.Connection.admit`."""
        if self._caller is None:
            self._caller = caller_at(cast("Any", self.transport))
        admission = self.site.admission
        return self._caller if admission is None else admission.admit(headers, self._caller)

    def is_foreign_change(self, request: JsonRequest) -> bool:
        """See `rtprov.http.request.Connection.is_foreign_change`."""
        # Twisted sets the request's method only when all of it has arrived.
        return isinstance(self.site.resource, SameOrigin) and self.site.resource.refuses(
            request, self._command
        )

    def refuse_for(self, error: RtprovError) -> None:
        """See `rtprov.http.request.Connection.refuse_for`."""
        row = answer_for(error)
        assert row is not None
        if self.requests:
            self.note_refusal(self.requests[-1], row[0], error)
        self.refuse(*row)

    def note_refusal(self, request: Request, status: int, error: BaseException) -> None:
        """Log and count a request that is refused because of its caller or the caller's rate."""
        if status not in STATUSES:
            return
        if self.site.traffic is not None:
            self.site.traffic.refused_for(error)
        if self.site.refusals is None:
            return
        caller = getattr(request, "caller", None) or self._caller
        name = getattr(error, "caller", None) or (None if caller is None else caller.name)
        # Twisted sets the request's method and path only when all of it has arrived.
        method, path = (
            getattr(self, "_command", request.method),
            getattr(self, "_path", request.path).partition(b"?")[0],
        )
        self.site.refusals.note(status, method, path, name, getattr(error, "why", str(error)))

    def refuse(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer at once, without waiting for the rest of the request, and close the connection."""
        if self.refused:
            return
        self.refused = True
        self._note_answer(status)
        body = encode(envelope(status, message))
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()).encode()
        assert self.transport is not None
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nServer: rtprov\r\nDate: %s\r\nConnection: close\r\n%s"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (
                status,
                phrase(status).encode(),
                datetimeToString(),
                fields,
                len(body),
                b"" if self._asked_for_head else body,
            )
        )
        self.loseConnection()

    def _note_answer(self, status: int) -> None:
        """Count a request that is refused before it is complete."""
        if self.site.traffic is not None:
            path = getattr(self, "_path", None) or b"?"
            self.site.traffic.answered(path.partition(b"?")[0], status, None)

    @property
    def traffic(self) -> Traffic | None:
        """See `rtprov.http.request.Connection.traffic`."""
        return self.site.traffic

    @property
    def _asked_for_head(self) -> bool:
        """Whether the request is a HEAD, whose answer has no body (RFC 9110 §9.3.2)."""
        # Twisted keeps the method in the channel until the request is complete.
        return getattr(self, "_command", b"") == b"HEAD" or bool(
            self.requests and self.requests[0].method == b"HEAD"
        )

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels[self] = None
        if self.site.waiting is not None:
            self.site.waiting.append(self)
            self.hold_requests()

    def _hold(self, data: bytes) -> None:
        if self.site.waiting is not None:
            self._held_at = self.site.seconds()
        super()._hold(data)

    def on_open(self) -> None:
        """Read what has arrived while the site answered no request."""
        self._opening = True
        try:
            self.resume_requests()
        finally:
            self._opening = False

    def timeoutConnection(self) -> None:
        if self.site.waiting is None:
            super().timeoutConnection()
        else:  # requests are not read yet: the client is not late
            self.setTimeout(self.timeOut)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channels.pop(self, None)
        super().connectionLost(reason)

    def close_after_answer(self) -> None:
        """Close after the answer to the current request, or to the first one if none has begun yet.
        Otherwise close at once.
        """
        for request in self.requests:
            self.persistent = False
            if not request.startedWriting:
                request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        if not self.expected and not self.requests:
            self.loseConnection()

    @property
    def expected(self) -> bool:
        """Whether a request is about to arrive, because it has begun or is the first one."""
        return self.arriving or not self.begun

    def headerReceived(self, line: bytes) -> bool:
        try:
            return cast("bool", super().headerReceived(line))
        except ValueError:  # a Content-Length of more digits than Python converts
            self.refuse_for(BodyTooLarge(MAX_BODY_BYTES))
            return False

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Return whether the connection stays open after this request.

        It does not if any option of any ``Connection`` field is ``close`` (RFC 9112 §9.3), or if
        the site closes.
        """
        # `JsonRequest.gotLength` is called next and needs the version; Twisted sets it later.
        request.clientproto = version
        fields = b",".join(request.requestHeaders.getRawHeaders(b"Connection", []))
        goes_on = version == b"HTTP/1.1" and b"close" not in {
            option.strip().lower() for option in fields.split(b",")
        }
        if goes_on and not self.site.closing:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def request_timed_out(self) -> None:
        self.refuse(408, f"The request did not arrive within {self.site.timeout_s:g} s")

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse_head()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Called by Twisted for an invalid request. Twisted's own 400 has no body."""
        if (
            self._receivedHeaderSize > self.totalHeadersSize
            or self._receivedHeaderCount > self.maxHeaders
        ):
            self._refuse_head()
        else:
            self.refuse(400, "The request is not valid HTTP/1.1")

    def _refuse_head(self) -> None:
        if not self.requests:  # the request line is not complete yet
            self.refuse(414, f"The URL is too long: the limit is {self.totalHeadersSize} bytes")
            return
        self.refuse(
            431,
            f"The request's head is too large: the limits are {self.totalHeadersSize} bytes and"
            f" {self.maxHeaders} fields",
        )


class _Refused(Resource):
    """Replaces every route for a request that is not admitted."""

    isLeaf = True

    def render(self, request: IRequest) -> int:
        error = cast("JsonRequest", request).refusal
        assert error is not None
        request.write(answer_error(request, Failure(error)))
        request.finish()
        return NOT_DONE_YET


class JsonSite(Site):
    """Serves `resource` over HTTP/1.1 to the requests that `admission` admits; without it, to all.

    `refusals` logs the requests that are refused, `traffic` counts all requests. `reactor` runs the
    timers. A request has `timeout_s` seconds to arrive as a whole. As much time may pass before the
    next one begins.

    `channels` are the open connections. `waiting` are the connections that wait for `open`, None if
    requests are answered. `closing` is set by `close` and `close_after_answers`.
    """

    noisy = False
    protocol = JsonChannel  # type: ignore[assignment] # Twisted's default selects HTTP/1.1 or HTTP/2
    requestFactory = JsonRequest

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        admission: Admission | None = None,
        refusals: Refusals | None = None,
        traffic: Traffic | None = None,
        timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        super().__init__(
            resource, timeout=cast("int", timeout_s), reactor=reactor, parsePOSTFormSubmission=False
        )
        self.admission = admission
        self.refusals = refusals
        self.traffic = traffic
        self.timeout_s = timeout_s
        self._refused = _Refused()
        self.channels: dict[JsonChannel, None] = {}  # an ordered set
        self.waiting: list[JsonChannel] | None = None
        self.closing = False
        self.seconds = reactor.seconds

    @property
    def plain_routes(self) -> PlainRoutes | None:
        """The routes of the resource for the fast lane, if it has any."""
        return getattr(self.resource, "plain_routes", None)

    def request_begins(self) -> None:
        """Called when a request has arrived as a whole."""

    def request_ends(self) -> None:
        """Called when a request is answered, or its connection lost."""

    def close_after_answers(self) -> None:
        """Close each connection after the answer to its next request. Idle ones stay open."""
        self.closing = True

    def close(self) -> None:
        """Close each connection after the answer to its current or first request; at once if it has
        none and has had one.
        """
        self.closing = True
        for channel in list(self.channels):
            channel.close_after_answer()

    @property
    def expects_requests(self) -> bool:
        """Whether a request is about to arrive on some connection."""
        return any(channel.expected for channel in self.channels)

    def hold(self) -> None:
        """Accept connections, but answer no request until `open` is called."""
        self.waiting = []

    def open(self) -> None:
        """Answer requests, beginning with those that have waited."""
        waiting, self.waiting = self.waiting, None
        for channel in waiting or ():
            channel.on_open()

    def getResourceFor(self, request: Request) -> IResource:
        if isinstance(request, JsonRequest) and request.refusal is not None:
            return cast("IResource", self._refused)
        return cast("IResource", super().getResourceFor(request))

    def startFactory(self) -> None:
        """Write no access log: clients poll, and a line for each poll would hide all others."""

    def stopFactory(self) -> None: ...

    def log(self, request: object) -> None: ...

    def acceptableProtocols(self) -> list[bytes]:
        """The protocols for ALPN, best first; `rtprov.security.tls_server` selects one."""
        return [b"http/1.1", b"http/1.0"]

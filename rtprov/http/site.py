"""The HTTP edge of front end and stub: limits on every request, and no answer that is not ours.

`JsonSite` serves a Klein resource. Whatever Twisted would answer in HTML, plain text or not at all
(RFC 9110 §15) leaves it in the envelope of `rtprov.http.responses`. `rtprov.http.request` has what
is done with each request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from rtprov.errors import BodyTooLarge, RtprovError
from rtprov.http.admission import Admission, Caller, caller_at
from rtprov.http.refusals import STATUSES, Refusals
from rtprov.http.request import MAX_BODY_BYTES, JsonRequest
from rtprov.http.responses import answer_error, answer_for, encode, envelope, phrase

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.web.http_headers import Headers
    from twisted.web.resource import IResource

IDLE_TIMEOUT_S = 60  # for a request to arrive as a whole, and between requests
CLOSE_TIMEOUT_S = 15


class JsonChannel(HTTPChannel):
    """An HTTP/1.1 connection that refuses in JSON too what is no proper request, and that no client
    can hold for ever.
    """

    site: JsonSite
    refused = False
    _caller: Caller | None = None
    _arriving = False
    _cut: IDelayedCall | None = None
    _held: bytes | None = None  # what has arrived behind the request that was answered last
    _unread = False  # whether the client lets our answers wait

    def admit(self, headers: Headers) -> Caller:
        """Who sends a request with these headers. Raises what it is refused for."""
        if self._caller is None:
            self._caller = caller_at(cast("Any", self.transport))
        admission = self.site.admission
        return self._caller if admission is None else admission.admit(headers, self._caller)

    def refuse_for(self, error: RtprovError) -> None:
        """Answer an error of the table at once."""
        row = answer_for(error)
        assert row is not None
        if self.requests:
            self.note_refusal(self.requests[-1], row[0], error)
        self.refuse(*row)

    def note_refusal(self, request: Request, status: int, error: BaseException) -> None:
        """Have a line written of a request that is refused for who sends it."""
        if self.site.refusals is None or status not in STATUSES:
            return
        caller = getattr(request, "caller", None) or self._caller
        name = getattr(error, "caller", None) or (
            "an unknown caller" if caller is None else caller.name
        )
        # A request that is refused before its end does not know its method and path yet.
        method, path = (
            getattr(self, "_command", request.method),
            getattr(self, "_path", request.path).partition(b"?")[0],
        )
        self.site.refusals.note(status, method, path, name, getattr(error, "why", str(error)))

    def refuse(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer at once, whatever is still to come of the request, and close the connection."""
        if self.refused:
            return
        self.refused = True
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
            self._held = b""

    def site_opened(self) -> None:
        """Requests are answered from now on."""
        self._go_on()

    def close_behind_the_answer(self) -> None:
        """Close, behind the answer of the request that is under way or arriving."""
        for request in self.requests:
            self.persistent = False
            if not request.startedWriting:
                request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        if not self.requests and not self._arriving:
            self.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._held is not None:
            self._hold(data)
        # TLS hands on what comes behind its close, which is no request any more
        elif self._cut is None:
            super().dataReceived(data)

    def requestDone(self, request: Request) -> None:
        """Called when a request is answered. The next waits for the reactor's next turn, and for a
        client who reads.

        Twisted would answer all that has arrived at once: a thousand requests in one piece, whose
        answers fill the memory if nobody reads."""
        self.paused = True  # LineReceiver's
        super().requestDone(request)
        self.paused = False
        rest = self.clearLineBuffer()
        if self.persistent:
            self._held = b""
            self.callLater(0, self._go_on)
            if rest:
                self._hold(rest)

    def _hold(self, data: bytes) -> None:
        assert self._held is not None
        self._held += data
        cast("Any", self.transport).pauseProducing()

    def _go_on(self) -> None:
        if self._held is not None and not self._unread:
            rest, self._held = self._held, None
            if rest:
                cast("Any", self.transport).resumeProducing()
                self.dataReceived(rest)

    def pauseProducing(self) -> None:
        self._unread = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._unread = False
        super().resumeProducing()
        if self._held is not None:
            self.callLater(0, self._go_on)

    def headerReceived(self, line: bytes) -> bool:
        try:
            return cast("bool", super().headerReceived(line))
        except ValueError:  # a Content-Length of more digits than Python reads
            self.refuse_for(BodyTooLarge(MAX_BODY_BYTES))
            return False

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection goes on: not if any option of any ``Connection`` field is
        ``close`` (RFC 9112 §9.3).
        """
        # for `JsonRequest.gotLength`, which comes next; Twisted says it later
        request.clientproto = version
        fields = b",".join(request.requestHeaders.getRawHeaders(b"Connection", []))
        goes_on = version == b"HTTP/1.1" and b"close" not in {
            option.strip().lower() for option in fields.split(b",")
        }
        if goes_on and not self.site.closing:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def allContentReceived(self) -> None:
        self._arriving = False
        super().allContentReceived()

    def resetTimeout(self) -> None:
        """Called with every piece that arrives. Only a request's first piece counts, or it could
        trickle in for days.
        """
        if not self._arriving:
            self._arriving = True
            super().resetTimeout()

    def timeoutConnection(self) -> None:
        if self._arriving:
            self.refuse(408, f"The request did not arrive within {self.site.timeout_s:g} s")
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close once all is written; cut off a client that does not let it happen: TLS waits for
        its farewell too.
        """
        if self._cut is None:
            self._cut = self.callLater(CLOSE_TIMEOUT_S, cast("Any", self.transport).abortConnection)
            super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._cut is not None and self._cut.active():
            self._cut.cancel()
        self._held = None
        self.site.channels.pop(self, None)
        super().connectionLost(reason)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse_head()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Twisted's hook for its bare 400 without a body."""
        if (
            self._receivedHeaderSize > self.totalHeadersSize
            or self._receivedHeaderCount > self.maxHeaders
        ):
            self._refuse_head()
        else:
            self.refuse(400, "The request is not valid HTTP/1.1")

    def _refuse_head(self) -> None:
        if not self.requests:  # its first line is not over yet
            self.refuse(
                414, f"The URL is too long: at most {self.totalHeadersSize} bytes are taken"
            )
            return
        self.refuse(
            431,
            f"The request's head is too large: at most {self.totalHeadersSize} bytes and"
            f" {self.maxHeaders} fields are taken",
        )


class _Refused(Resource):
    """Stands in for every route, for a request that is not let in."""

    isLeaf = True

    def render(self, request: IRequest) -> int:
        error = cast("JsonRequest", request).refusal
        assert error is not None
        request.write(answer_error(request, Failure(error)))
        request.finish()
        return NOT_DONE_YET


class JsonSite(Site):
    """Serves `resource` on HTTP/1.1 to those whom `admission` admits; without one, to everybody.

    `refusals` is told of those that are turned away. `reactor` carries the timers. A request has
    `timeout_s` seconds to arrive as a whole, and as long may pass until the next one begins.
    `channels` are its connections; `waiting` those whose requests wait for `open`, None while none
    does. `closing` tells that it is about to end."""

    noisy = False
    protocol = JsonChannel  # type: ignore[assignment] # not Twisted's switch between HTTP/1.1 and HTTP/2
    requestFactory = JsonRequest

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        admission: Admission | None = None,
        refusals: Refusals | None = None,
        timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        super().__init__(
            resource, timeout=cast("int", timeout_s), reactor=reactor, parsePOSTFormSubmission=False
        )
        self.admission = admission
        self.refusals = refusals
        self.timeout_s = timeout_s
        self._refused = _Refused()
        self.channels: dict[JsonChannel, None] = {}  # an ordered set
        self.waiting: list[JsonChannel] | None = None
        self.closing = False

    def close(self) -> None:
        """From now on an answer is the last one on its connection; where none is due, the
        connection is closed.
        """
        self.closing = True
        for channel in list(self.channels):
            channel.close_behind_the_answer()

    def hold(self) -> None:
        """Take connections, and let their requests wait for `open`."""
        self.waiting = []

    def open(self) -> None:
        """Answer requests, first those that have waited."""
        waiting, self.waiting = self.waiting, None
        for channel in waiting or ():
            channel.site_opened()

    def getResourceFor(self, request: Request) -> IResource:
        if isinstance(request, JsonRequest) and request.refusal is not None:
            return cast("IResource", self._refused)
        return cast("IResource", super().getResourceFor(request))

    def startFactory(self) -> None:
        """No access log: a line for each poll would bury everything else."""

    def stopFactory(self) -> None: ...

    def log(self, request: object) -> None: ...

    def acceptableProtocols(self) -> list[bytes]:
        """What `rtprov.security.tls_server` agrees to by ALPN, the best first."""
        return [b"http/1.1", b"http/1.0"]

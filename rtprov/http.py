"""The HTTP edge of front end and stub: limits on every request, and no answer that is not ours.

`JsonSite` serves a Klein resource. Whatever Twisted would answer in HTML, plain text or not at all (RFC 9110 §15) leaves it in the envelope
of `rtprov.answers`. The functions are what handlers ask of a request.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from rtprov.access import Admission, Caller, caller_at
from rtprov.answers import answer_error, encode, envelope, row_of
from rtprov.body import MAX_BODY_BYTES
from rtprov.errors import (
    BodyTooLarge,
    CredentialsMalformed,
    CredentialsMissing,
    CredentialsUnknown,
    RtprovError,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from klein import Klein
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.web.http_headers import Headers
    from twisted.web.resource import IResource

# An oversized body is read up to here, and answered when it ends: a client that is still sending may never see an answer.
MAX_DISCARDED_BYTES = 1024 * 1024
IDLE_TIMEOUT_S = 60  # for a request to arrive as a whole, and between requests
CLOSE_TIMEOUT_S = 15

# Whoever restarts and routes has no credentials, and learns nothing there that he should not.
OPEN_PATHS = (b"/livez", b"/readyz")


def json_resource(app: Klein) -> IResource:
    """The app's resource; no path of it redirects to another."""
    app.url_map.merge_slashes = False
    return cast("IResource", app.resource())


_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 §5.6.2
_JSON = re.compile(rb"(?:application/json|%s/%s\+json)[ \t]*(?:;.*)?" % (_TOKEN, _TOKEN), re.IGNORECASE)


def check_media_type(request: IRequest) -> None:
    """Take ``application/json``, any ``+json`` type, or no Content-Type at all. Raises `UnsupportedMediaType`."""
    values = request.requestHeaders.getRawHeaders(b"Content-Type")
    if values is not None and (len(values) != 1 or not _JSON.fullmatch(values[0])):
        raise UnsupportedMediaType


def read_body(request: IRequest) -> bytes:
    """The request's body, at most `MAX_BODY_BYTES`. Raises `BodyTooLarge`."""
    if isinstance(request, JsonRequest) and request.too_large:
        raise BodyTooLarge(MAX_BODY_BYTES)
    assert request.content is not None
    return cast("bytes", request.content.read())


def caller_of(request: IRequest) -> str:
    """Who sent the request, as `Caller.name` says it."""
    assert isinstance(request, JsonRequest) and request.caller is not None
    return request.caller.name


def abort_connection(request: IRequest) -> None:
    """Close the request's connection with no answer."""
    cast("Any", request).transport.abortConnection()


class JsonRequest(Request):
    """Keeps no more of the body than is taken, and spells method and path so that Klein routes what is meant."""

    channel: JsonChannel
    defaultContentType = b"application/json"
    received = 0
    too_large = False
    caller: Caller | None = None
    refusal: RtprovError | None = None

    def gotLength(self, length: int | None) -> None:
        self.content = io.BytesIO()
        try:
            self.caller = self.channel.admit(self.requestHeaders)
        except RtprovError as error:
            self.refusal = error
            if self.requestHeaders.hasHeader("Expect"):
                self.requestHeaders.removeHeader("Expect")
                self.channel.refuse_for(error)
                return
        # A client that sends Expect asks whether to send the body: where that is too large, the answer is no.
        taken = MAX_BODY_BYTES if self.requestHeaders.hasHeader("Expect") else MAX_DISCARDED_BYTES
        if length is not None and length > taken:
            self.requestHeaders.removeHeader("Expect")
            self.channel.refuse(413, str(BodyTooLarge(MAX_BODY_BYTES)))

    def handleContentChunk(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > MAX_BODY_BYTES:
            self.too_large = True
        if not self.too_large and self.refusal is None:
            cast("io.BytesIO", self.content).write(data)
        if self.received > MAX_DISCARDED_BYTES:  # a chunked body does not tell its length
            self.channel.refuse(413, str(BodyTooLarge(MAX_BODY_BYTES)))

    def getRequestHostname(self) -> bytes:
        """Routes do not depend on the Host field, which may hold anything."""
        return b"rtprov"

    def process(self) -> None:
        if self.channel.refused:
            return  # the rest of a body that was refused
        if self.method != self.method.upper():
            self.method = b"~" + self.method  # methods are case-sensitive (RFC 9110 §9.1), werkzeug's routing is not
        self.path = _routable(self.path)
        if self.path in OPEN_PATHS and isinstance(self.refusal, (CredentialsMissing, CredentialsMalformed, CredentialsUnknown)):
            self.refusal = None
        if self.caller is not None:
            try:
                self.caller.check_method(self.method)
            except RtprovError as error:
                self.refusal = error
        super().process()

    def processingFailed(self, reason: Failure) -> Any:
        """The last resort, for what failed outside of a handler."""
        body = answer_error(self, reason)
        if not self.startedWriting:
            self.write(body)
        self.finish()

    def setHeader(self, name: Any, value: Any) -> None:
        super().setHeader(name, b"rtprov" if name == b"Server" else value)


_ORIGIN = re.compile(rb"https?://[^/]+", re.IGNORECASE)


def _routable(target: bytes) -> bytes:
    """The path that a request's target names (RFC 9112 §3.2), or one that nothing is served at where it names none."""
    origin = _ORIGIN.match(target)
    path = target[origin.end() :] if origin else target
    if not path.startswith(b"/") or path.startswith(b"//"):  # routing passes over leading slashes
        return b"/*"
    if b"%" in path or not path.isascii():
        return b"/".join(_tame(segment) for segment in path.split(b"/"))
    return path


def _tame(segment: bytes) -> bytes:
    """One path segment with what is no UTF-8, or would make two segments of it, replaced by U+FFFD, which no route and no id takes."""
    text = unquote_to_bytes(segment).decode("utf-8", "replace").replace("/", "\ufffd")
    return quote_from_bytes(text.encode(), safe="").encode()


class JsonChannel(HTTPChannel):
    """An HTTP/1.1 connection that refuses in JSON too what is no proper request, and that no client can hold for ever."""

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
        row = row_of(error)
        assert row is not None
        self.refuse(*row)

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
            % (status, _REASONS[status], datetimeToString(), fields, len(body), body)
        )
        self.loseConnection()

    def connectionMade(self) -> None:
        super().connectionMade()
        if self.site.waiting is not None:
            self.site.waiting.append(self)
            self._held = b""

    def site_opened(self) -> None:
        """Requests are answered from now on."""
        self._go_on()

    def dataReceived(self, data: bytes) -> None:
        if self._held is not None:
            self._hold(data)
        elif not self.refused:
            super().dataReceived(data)

    def requestDone(self, request: Request) -> None:
        """Called when a request is answered. The next waits for the reactor's next turn, and for a client who reads.

        Twisted would answer all that has arrived at once: a thousand requests in one piece, whose answers fill the memory if nobody reads.
        """
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
            self.refuse(413, str(BodyTooLarge(MAX_BODY_BYTES)))
            return False

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection goes on: not if any option of any ``Connection`` field is ``close`` (RFC 9112 §9.3)."""
        fields = b",".join(request.requestHeaders.getRawHeaders(b"Connection", []))
        if version == b"HTTP/1.1" and b"close" not in {option.strip().lower() for option in fields.split(b",")}:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def allContentReceived(self) -> None:
        self._arriving = False
        super().allContentReceived()

    def resetTimeout(self) -> None:
        """Called with every piece that arrives. Only a request's first piece counts, or it could trickle in for days."""
        if not self._arriving:
            self._arriving = True
            super().resetTimeout()

    def timeoutConnection(self) -> None:
        if self._arriving:
            self.refuse(408, f"The request did not arrive within {self.site.timeout_s:g} s")
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close once all is written; cut off a client that does not let it happen: TLS waits for its farewell too."""
        if self._cut is None:
            self._cut = self.callLater(CLOSE_TIMEOUT_S, cast("Any", self.transport).abortConnection)
            super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._cut is not None and self._cut.active():
            self._cut.cancel()
        self._held = None
        super().connectionLost(reason)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse_head()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Twisted's hook for its bare 400 without a body."""
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self._refuse_head()
        else:
            self.refuse(400, "The request is not valid HTTP/1.1")

    def _refuse_head(self) -> None:
        if not self.requests:  # its first line is not over yet
            self.refuse(414, f"The URL is too long: at most {self.totalHeadersSize} bytes are taken")
            return
        self.refuse(431, f"The request's head is too large: at most {self.totalHeadersSize} bytes and {self.maxHeaders} fields are taken")


_REASONS = {
    400: b"Bad Request",
    401: b"Unauthorized",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
}


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

    `reactor` carries the timers. A request has `timeout_s` seconds to arrive as a whole, and as long may pass until the next one begins.
    `waiting` are the connections whose requests wait for `open`; None while none does.
    """

    noisy = False
    protocol = JsonChannel  # type: ignore[assignment] # not Twisted's switch between HTTP/1.1 and HTTP/2
    requestFactory = JsonRequest

    def __init__(
        self, resource: IResource, *, reactor: IReactorTime, admission: Admission | None = None, timeout_s: float = IDLE_TIMEOUT_S
    ) -> None:
        super().__init__(resource, timeout=cast("int", timeout_s), reactor=reactor, parsePOSTFormSubmission=False)
        self.admission = admission
        self.timeout_s = timeout_s
        self._refused = _Refused()
        self.waiting: list[JsonChannel] | None = None

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
        return [b"http/1.1"]

"""One HTTP request: checks before a handler sees it, and functions that handlers use.

`rtprov.http.site` has the connections that requests arrive on.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from twisted.web.iweb import IRequest
from twisted.web.server import Request

from rtprov.errors import (
    BodyTooLarge,
    CredentialsMalformed,
    CredentialsMissing,
    CredentialsUnknown,
    ExpectationFailed,
    ForeignOrigin,
    MalformedRequest,
    RtprovError,
    UnsupportedMediaType,
)
from rtprov.http.head import check_content_encoding, check_expectation, check_message, path_of
from rtprov.http.responses import answer_error, phrase
from rtprov.security.tokens import Role

if TYPE_CHECKING:
    from klein import Klein
    from twisted.python.failure import Failure
    from twisted.web.http_headers import Headers
    from twisted.web.resource import IResource

    from rtprov.http.admission import Admission, Caller
    from rtprov.http.traffic import Traffic

MAX_BODY_BYTES = 65536
# A larger body is read and discarded up to this size, and answered at its end: a client that is
# still sending may never see the answer.
MAX_DISCARDED_BYTES = 1024 * 1024

# Paths that need no credentials: health checks, which have none, and files that contain no secret,
# the API's description and the pages for browsers.
OPEN_PATHS = frozenset({b"/livez", b"/readyz", b"/docs", b"/openapi.json", b"/ui"})
SESSION_PATH = b"/api/v1/session"
"""Where browsers log in and out, whatever their role is."""

OPEN_FOLDERS: tuple[bytes, ...] = (b"/ui/",)
"""Paths that end in a slash. Everything below them needs no credentials either."""


def is_open(path: bytes) -> bool:
    """Return whether a path is answered without credentials."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def json_resource(app: Klein) -> IResource:
    """Return the app's resource. None of its paths redirects to another."""
    app.url_map.merge_slashes = False
    return cast("IResource", app.resource())


_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 §5.6.2
_JSON = re.compile(
    rb"(?:application/json|%s/%s\+json)[ \t]*(?:;.*)?" % (_TOKEN, _TOKEN), re.IGNORECASE
)


def check_media_type(request: IRequest) -> None:
    """Accept ``application/json``, any ``+json`` type, or no Content-Type at all.

    Raises `UnsupportedMediaType`.
    """
    values = request.requestHeaders.getRawHeaders(b"Content-Type")
    if values is not None and (len(values) != 1 or not _JSON.fullmatch(values[0])):
        raise UnsupportedMediaType


def read_body(request: IRequest) -> bytes:
    """Return the request's body, at most `MAX_BODY_BYTES`. Raises `BodyTooLarge`."""
    if isinstance(request, JsonRequest) and request.too_large:
        raise BodyTooLarge(MAX_BODY_BYTES)
    assert request.content is not None
    return cast("bytes", request.content.read())


def caller_of(request: IRequest) -> Caller:
    """Return the caller of the request."""
    caller: Caller | None = cast("Any", request).caller
    assert caller is not None
    return caller


def arrived_at(request: IRequest) -> float:
    """Return when the whole request had arrived, in seconds of the site's monotonic clock."""
    return cast("float", cast("Any", request).arrived_at)


def admission_of(request: IRequest) -> Admission | None:
    """Return the access control of the site that the request came to, or None without one."""
    assert isinstance(request, JsonRequest)
    return request.channel.admission


def abort_connection(request: IRequest) -> None:
    """Close the request's connection without an answer."""
    cast("Any", request).transport.abortConnection()


class Connection(Protocol):
    """What a request needs of its connection."""

    refused: bool

    @property
    def admission(self) -> Admission | None:
        """The access control of the site."""

    @property
    def traffic(self) -> Traffic | None:
        """Counts the requests of the site, if it is not None."""

    @property
    def arrived_at(self) -> float:
        """When the request that is complete now has arrived, in seconds of the site's clock."""

    def admit(self, headers: Headers) -> Caller:
        """Return the caller of a request with these headers. Raises the error to refuse it with."""

    def is_foreign_change(self, request: JsonRequest) -> bool:
        """Return whether the site refuses a request, because a page of another site sends it."""

    def refuse_for(self, error: RtprovError) -> None:
        """Answer with an error of the table at once, and close the connection."""

    def note_refusal(self, request: JsonRequest, status: int, error: BaseException) -> None:
        """Called when a request is answered with an error of the table."""


class JsonRequest(Request):
    """A request that keeps at most `MAX_BODY_BYTES` of its body.

    `process` rewrites method and path where werkzeug's routing would misread them. `refusal` is the
    error that the request is answered with, or None. `caller` is None unless the request is
    admitted. `arrived_at` is when the whole request had arrived, in seconds of the site's monotonic
    clock; None until then.
    """

    channel: Connection  # type: ignore[assignment] # an HTTPChannel, used only through this Protocol
    defaultContentType = b"application/json"
    received = 0
    too_large = False
    caller: Caller | None = None
    refusal: RtprovError | None = None
    arrived_at: float | None = None

    def gotLength(self, length: int | None) -> None:
        """Check the complete head.

        `length` is the length of the body in bytes, None if it is chunked.
        """
        self.content = io.BytesIO()
        try:
            check_message(self.requestHeaders, self.clientproto)
            expects = check_expectation(self.requestHeaders, self.clientproto)
        except (MalformedRequest, ExpectationFailed) as error:
            self._refuse_now(error)
            return
        try:
            self.caller = self.channel.admit(self.requestHeaders)
            if length != 0:
                check_content_encoding(self.requestHeaders)
        except RtprovError as error:
            # What a page of another site sends is refused as such, whatever the credentials are.
            self.refusal = ForeignOrigin() if self.channel.is_foreign_change(self) else error
            if expects:
                self._refuse_now(self.refusal)
                return
        # A client that sends Expect asks whether to send the body. If it is too large, the answer
        # is no.
        if length is not None and length > (MAX_BODY_BYTES if expects else MAX_DISCARDED_BYTES):
            self._refuse_now(BodyTooLarge(MAX_BODY_BYTES))

    def _refuse_now(self, error: RtprovError) -> None:
        """Answer before the body has arrived, and do not ask the client for it."""
        self.requestHeaders.removeHeader(b"Expect")
        self.channel.refuse_for(error)

    def handleContentChunk(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > MAX_BODY_BYTES:
            self.too_large = True
        if not self.too_large and self.refusal is None:
            cast("io.BytesIO", self.content).write(data)
        if self.received > MAX_DISCARDED_BYTES:  # a chunked body does not announce its length
            self.channel.refuse_for(BodyTooLarge(MAX_BODY_BYTES))

    def getRequestHostname(self) -> bytes:
        """Return a constant: routes do not depend on the Host field."""
        return b"rtprov"

    def process(self) -> None:
        if self.channel.refused:
            return  # the body of a request that was refused at its head
        self.arrived_at = self.channel.arrived_at
        if self.method != self.method.upper():
            # Methods are case-sensitive (RFC 9110 §9.1); werkzeug's routing is not.
            self.method = b"~" + self.method
        try:
            self.path = _routable(self.path)
        except MalformedRequest as error:
            self._refuse_now(error)
            return
        if is_open(self.path) and isinstance(
            self.refusal, (CredentialsMissing, CredentialsMalformed, CredentialsUnknown)
        ):
            self.refusal = None
        if self.caller is not None:
            try:
                self.caller.check_method(
                    self.method, least=Role.READ if self.path == SESSION_PATH else Role.ORDER
                )
            except RtprovError as error:
                self.refusal = error
        super().process()

    def processingFailed(self, reason: Failure) -> Any:
        """Answer a request that failed outside of a handler."""
        body = answer_error(self, reason)
        if not self.startedWriting:
            self.write(body)
        self.finish()

    def finish(self) -> None:
        # Twisted removes the channel when the connection is lost.
        traffic: Traffic | None = getattr(self.channel, "traffic", None)
        if traffic is not None:
            traffic.answered(self.path, self.code, self.arrived_at)
        super().finish()

    def note_refusal(self, status: int, error: BaseException) -> None:
        """Called by `answer_error` when the answer is an error of the table."""
        self.channel.note_refusal(self, status, error)

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        super().setResponseCode(code, message or phrase(code).encode())

    def setHeader(self, name: Any, value: Any) -> None:
        super().setHeader(name, b"rtprov" if name == b"Server" else value)


def _routable(target: bytes) -> bytes:
    """Return the path of a request's target, or one that has no route if the target has no path.

    Raises `MalformedRequest`.
    """
    path = path_of(target)
    if path is None:
        return b"/*"
    if b"%" in path or not path.isascii():
        return b"/".join(_quote_segment(segment) for segment in path.split(b"/"))
    return path


def _quote_segment(segment: bytes) -> bytes:
    """Return one path segment, quoted so that it stays one segment and is valid UTF-8.

    Other bytes, and an encoded slash, become U+FFFD, which no route and no id accepts.
    """
    text = unquote_to_bytes(segment).decode("utf-8", "replace").replace("/", "\ufffd")
    return quote_from_bytes(text.encode(), safe="").encode()

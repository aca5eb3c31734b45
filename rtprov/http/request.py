"""One HTTP request of front end and stub: what it is held to before a handler sees it, and what
handlers ask of it.

`rtprov.http.site` has the connections that requests come by.
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
    MalformedRequest,
    RtprovError,
    UnsupportedMediaType,
)
from rtprov.http.head import check_content_encoding, check_expectation, check_message, path_of
from rtprov.http.responses import answer_error, phrase

if TYPE_CHECKING:
    from klein import Klein
    from twisted.python.failure import Failure
    from twisted.web.http_headers import Headers
    from twisted.web.resource import IResource

    from rtprov.http.admission import Caller

# An oversized body is read up to here, and answered when it ends: a client that is still sending
# may never see an answer.
MAX_BODY_BYTES = 65536
MAX_DISCARDED_BYTES = 1024 * 1024

# What needs no credentials: probes, which have none, and the description of the interface, which
# holds no secret.
OPEN_PATHS = frozenset({b"/livez", b"/readyz", b"/docs", b"/openapi.json"})
OPEN_FOLDERS: tuple[bytes, ...] = ()
"""Paths that end in a slash: all below them is open, too."""


def is_open(path: bytes) -> bool:
    """Whether a path is answered without credentials."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def json_resource(app: Klein) -> IResource:
    """The app's resource; no path of it redirects to another."""
    app.url_map.merge_slashes = False
    return cast("IResource", app.resource())


_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 §5.6.2
_JSON = re.compile(
    rb"(?:application/json|%s/%s\+json)[ \t]*(?:;.*)?" % (_TOKEN, _TOKEN), re.IGNORECASE
)


def check_media_type(request: IRequest) -> None:
    """Take ``application/json``, any ``+json`` type, or no Content-Type at all. Raises
    `UnsupportedMediaType`.
    """
    values = request.requestHeaders.getRawHeaders(b"Content-Type")
    if values is not None and (len(values) != 1 or not _JSON.fullmatch(values[0])):
        raise UnsupportedMediaType


def read_body(request: IRequest) -> bytes:
    """The request's body, at most `MAX_BODY_BYTES`. Raises `BodyTooLarge`."""
    if isinstance(request, JsonRequest) and request.too_large:
        raise BodyTooLarge(MAX_BODY_BYTES)
    assert request.content is not None
    return cast("bytes", request.content.read())


def caller_of(request: IRequest) -> Caller:
    """Who sent the request."""
    assert isinstance(request, JsonRequest) and request.caller is not None
    return request.caller


def abort_connection(request: IRequest) -> None:
    """Close the request's connection with no answer."""
    cast("Any", request).transport.abortConnection()


class Connection(Protocol):
    """What a request needs of the connection it comes by."""

    refused: bool

    def admit(self, headers: Headers) -> Caller:
        """Who sends a request with these headers. Raises what it is refused for."""

    def refuse_for(self, error: RtprovError) -> None:
        """Answer an error of the table at once, and close."""

    def note_refusal(self, request: JsonRequest, status: int, error: BaseException) -> None:
        """A request is answered with an error of the table."""


class JsonRequest(Request):
    """Keeps no more of the body than is taken, and spells method and path so that Klein routes what
    is meant.
    """

    channel: Connection  # type: ignore[assignment] # an HTTPChannel, of which no more is asked
    defaultContentType = b"application/json"
    received = 0
    too_large = False
    caller: Caller | None = None
    refusal: RtprovError | None = None

    def gotLength(self, length: int | None) -> None:
        """Judge the head, once it is complete. `length` is that of the body in bytes, None if it is
        chunked.
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
            self.refusal = error
            if expects:
                self._refuse_now(error)
                return
        # A client that sends Expect asks whether to send the body: where that is too large, the
        # answer is no.
        if length is not None and length > (MAX_BODY_BYTES if expects else MAX_DISCARDED_BYTES):
            self._refuse_now(BodyTooLarge(MAX_BODY_BYTES))

    def _refuse_now(self, error: RtprovError) -> None:
        """Answer without the body, and do not ask for it."""
        self.requestHeaders.removeHeader(b"Expect")
        self.channel.refuse_for(error)

    def handleContentChunk(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > MAX_BODY_BYTES:
            self.too_large = True
        if not self.too_large and self.refusal is None:
            cast("io.BytesIO", self.content).write(data)
        if self.received > MAX_DISCARDED_BYTES:  # a chunked body does not tell its length
            self.channel.refuse_for(BodyTooLarge(MAX_BODY_BYTES))

    def getRequestHostname(self) -> bytes:
        """Routes do not depend on the Host field, which may hold anything."""
        return b"rtprov"

    def process(self) -> None:
        if self.channel.refused:
            return  # the rest of a body that was refused
        if self.method != self.method.upper():
            # methods are case-sensitive (RFC 9110 §9.1), werkzeug's routing is not
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

    def note_refusal(self, status: int, error: BaseException) -> None:
        """The answer is an error of the table."""
        self.channel.note_refusal(self, status, error)

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        super().setResponseCode(code, message or phrase(code).encode())

    def setHeader(self, name: Any, value: Any) -> None:
        super().setHeader(name, b"rtprov" if name == b"Server" else value)


def _routable(target: bytes) -> bytes:
    """The path in a request's target, or one without a route if there is none. Raises
    `MalformedRequest`.
    """
    path = path_of(target)
    if path is None:
        return b"/*"
    if b"%" in path or not path.isascii():
        return b"/".join(_quote_segment(segment) for segment in path.split(b"/"))
    return path


def _quote_segment(segment: bytes) -> bytes:
    """One path segment with what is no UTF-8, or would make two segments of it, replaced by U+FFFD,
    which no route and no id takes.
    """
    text = unquote_to_bytes(segment).decode("utf-8", "replace").replace("/", "\ufffd")
    return quote_from_bytes(text.encode(), safe="").encode()

"""Limits on the answers of A: the size of head and body, and the number of interim answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from rtprov.errors import RtprovError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from twisted.internet.interfaces import ITCPTransport
    from twisted.web.iweb import IResponse

MAX_BODY_BYTES = 65536
MAX_HEAD_BYTES = 65536
MAX_LINE_BYTES = 16384  # the limit of Twisted's client
MAX_INTERIM_ANSWERS = 20
TOO_LARGE = (
    f"the head of A's answer has more than {MAX_HEAD_BYTES} bytes, or a line of more than"
    f" {MAX_LINE_BYTES}"
)


class NotAnAnswer(RtprovError):
    """A's answer is not HTTP, or is too large. The message is the reason of the task's failure.

    `status` is the HTTP status of the answer, or None if it could not be read.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class HeadLimit(ProtocolWrapper):
    """Ends a connection to A if the head of an answer is too large.

    It wraps the protocol of Twisted's HTTP client, which limits neither the number of fields nor
    that of interim answers (1xx). At a line that is too long, the client closes the connection
    without a reason, which would look like an outage. This class closes it with `NotAnAnswer`.
    """

    transport: ITCPTransport
    _in_head = False
    _refusal: NotAnAnswer | None = None

    def write(self, data: bytes) -> None:
        self._expect_a_head()
        self.transport.write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self._expect_a_head()
        self.transport.writeSequence(data)

    def _expect_a_head(self) -> None:
        """Prepare for the head of an answer, because a request is being written."""
        if not self._in_head:
            self._in_head = True
            self._line = b""  # the part of the current line that has arrived
            self._status: int | None = None  # the status of the current head
            self._lines = self._head_bytes = self._interim_answers = 0

    def dataReceived(self, data: bytes) -> None:
        if self._refusal is None and self._in_head:
            text = self._follow(data)
            if text is not None:
                self._refusal = NotAnAnswer(text, self._status)
                self.transport.abortConnection()
        if self._refusal is None:
            self.wrappedProtocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        cast("Any", super()).connectionLost(
            reason if self._refusal is None else Failure(self._refusal)
        )

    def _follow(self, data: bytes) -> str | None:
        """Count the head up to its end, which may be within `data`; return what is wrong."""
        *lines, rest = (self._line + data).split(b"\n")
        for line in lines:
            self._head_bytes += len(line) + 1
            if len(line) > MAX_LINE_BYTES or self._head_bytes > MAX_HEAD_BYTES:
                return TOO_LARGE
            if self._lines == 0:
                self._status = _status_in(line)
            elif line in (b"", b"\r"):
                if self._status is None or not 100 <= self._status < 200:
                    self._in_head = False
                    return None
                self._lines, self._interim_answers = -1, self._interim_answers + 1
                if self._interim_answers > MAX_INTERIM_ANSWERS:
                    return f"A sent more than {MAX_INTERIM_ANSWERS} interim answers (1xx)"
            self._lines += 1
        self._line = rest
        return (
            TOO_LARGE
            if len(rest) > MAX_LINE_BYTES or self._head_bytes + len(rest) > MAX_HEAD_BYTES
            else None
        )


def _status_in(line: bytes) -> int | None:
    """Return the status in the first line of an answer, or None."""
    try:
        return int(line.split(b" ", 2)[1])
    except (IndexError, ValueError):
        return None


def read_body(response: IResponse) -> Deferred[bytes]:
    """Fire with the body of an answer.

    Fails with `NotAnAnswer` if the body is too large, or with the error of a lost connection.
    Cancelling closes the connection.
    """
    finished: Deferred[bytes] = Deferred(lambda _: collector.abort())
    collector = _Collector(finished)
    response.deliverBody(collector)
    return finished


class _Collector(Protocol):
    """Collects a body of at most `MAX_BODY_BYTES`."""

    def __init__(self, finished: Deferred[bytes]) -> None:
        self._finished: Deferred[bytes] | None = finished
        self._body = bytearray()

    def dataReceived(self, data: bytes) -> None:
        if self._finished is None:
            return
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            finished, self._finished = self._finished, None
            self._body.clear()
            self.abort()
            finished.errback(NotAnAnswer(f"A's answer has more than {MAX_BODY_BYTES} bytes"))

    def abort(self) -> None:
        if self.transport is not None:
            # This transport is a proxy, which has abortConnection only if the connection has it.
            getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        finished, self._finished = self._finished, None
        if finished is None or finished.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            finished.callback(bytes(self._body))
        else:
            finished.errback(reason)

"""Limits on the answers of A: the size of head and body, and the number of interim answers.

Of a gateway's error, only what matters is read.
"""

from __future__ import annotations

import zlib
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
MAX_CODINGS = 3
SET_ASIDE = b"Rtprov-Content-Encoding"  # replaces A's field, see `set_codings_aside`
OUTAGE_STATUSES = frozenset({502, 503, 504})
KEPT_OF_OUTAGES = (b"retry-after", b"date")
TOO_LARGE = (
    f"the head of A's answer has more than {MAX_HEAD_BYTES} bytes, or a line of more than"
    f" {MAX_LINE_BYTES}"
)


class NotAnAnswer(RtprovError):
    """A's answer is not HTTP, or is too large. The message is the reason of the task's failure."""


class HeadLimit(ProtocolWrapper):
    """Ends a connection to A if the head of an answer is too large, or reports an outage.

    It wraps the protocol of Twisted's HTTP client, which limits neither the number of fields nor
    that of interim answers (1xx). At a line that is too long, the client closes the connection
    without a reason, which would look like an outage. This class closes it with `NotAnAnswer`.

    A gateway's error (`OUTAGE_STATUSES`) is known by its status; the rest of such an answer may be
    invalid, or may never come. So only `KEPT_OF_OUTAGES` of its head are passed on, with an empty
    body, and the connection is closed.
    """

    transport: ITCPTransport
    _in_head = False
    _ended = False
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
            self._outage: list[bytes] = []  # the lines of an outage's head that are passed on

    def dataReceived(self, data: bytes) -> None:
        if self._ended:
            return
        if self._in_head:
            try:
                data = self._read_head(data)
            except NotAnAnswer as refusal:
                self._refusal = refusal
                self._end()
                return
        if data:
            self.wrappedProtocol.dataReceived(data)
        if self._outage and not self._in_head:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        cast("Any", super()).connectionLost(
            reason if self._refusal is None else Failure(self._refusal)
        )

    def _read_head(self, data: bytes) -> bytes:
        """Return what of `data` is passed on: complete lines, and what follows the head.

        Raises `NotAnAnswer`.
        """
        *lines, self._line = (self._line + data).split(b"\n")
        passed: list[bytes] = []
        for number, line in enumerate(lines):
            self._head_bytes += len(line) + 1
            if len(line) > MAX_LINE_BYTES or self._head_bytes > MAX_HEAD_BYTES:
                return b"".join(passed) + self._too_large()
            if self._lines == 0:
                self._begin(line)
            elif line in (b"", b"\r"):
                if self._status is None or not 100 <= self._status < 200:
                    self._in_head = False
                    if self._outage:
                        return b"".join(passed) + self._outage_head()
                    return b"".join(passed) + b"\n".join([*lines[number:], self._line])
                self._lines, self._interim_answers = -1, self._interim_answers + 1
                if self._interim_answers > MAX_INTERIM_ANSWERS:
                    raise NotAnAnswer(
                        f"A sent more than {MAX_INTERIM_ANSWERS} interim answers (1xx)"
                    )
            elif self._outage and line.partition(b":")[0].lower() in KEPT_OF_OUTAGES:
                self._outage.append(line)
            self._lines += 1
            if not self._outage:
                passed.append(line + b"\n")
        if len(self._line) > MAX_LINE_BYTES or self._head_bytes + len(self._line) > MAX_HEAD_BYTES:
            return b"".join(passed) + self._too_large()
        return b"".join(passed)

    def _begin(self, line: bytes) -> None:
        """Read the first line of a head."""
        self._status = _status_in(line)
        if self._status == 101:
            raise NotAnAnswer("A switched to another protocol, which it was not asked for")
        if self._status in OUTAGE_STATUSES:
            self._outage.append(line)

    def _too_large(self) -> bytes:
        """Return the rest of a head that is too large if it reports an outage."""
        if not self._outage:
            raise NotAnAnswer(TOO_LARGE)
        self._in_head = False
        return self._outage_head()

    def _outage_head(self) -> bytes:
        lines = [line.rstrip(b"\r") for line in self._outage]
        return b"\r\n".join([*lines, b"Content-Length: 0", b"Connection: close", b"", b""])


def _status_in(line: bytes) -> int | None:
    """Return the status in the first line of an answer, or None."""
    version, _, rest = line.partition(b" ")
    digits = rest[:3]
    return int(digits) if version.startswith(b"HTTP/1.") and digits.isdigit() else None


def set_codings_aside(response: IResponse) -> IResponse:
    """Rename the field ``Content-Encoding`` of an answer, so that only `read_body` decodes it.

    Twisted's decoder has no limit: 15 KB that were compressed twice can become a gigabyte.
    """
    codings = response.headers.getRawHeaders(b"Content-Encoding", [])
    response.headers.removeHeader(b"Content-Encoding")
    response.headers.setRawHeaders(SET_ASIDE, codings)
    return response


def read_body(response: IResponse) -> Deferred[bytes]:
    """Fire with the body of an answer, decompressed if its coding is gzip.

    Codings have names in any case, and ``x-gzip`` means ``gzip`` (RFC 9110 §8.4.1). A body with
    another coding is returned as it is: A was not asked for one.

    Fails with `NotAnAnswer` if the body is too large or cannot be decompressed, or with the error
    of a lost connection. Cancelling closes the connection.
    """
    values = response.headers.getRawHeaders(SET_ASIDE, [])
    codings = [each.strip().lower() for each in b",".join(values).split(b",")]
    applied = [each for each in codings if each not in (b"", b"identity")]
    known = len(applied) <= MAX_CODINGS and {*applied} <= {b"gzip", b"x-gzip"}
    finished: Deferred[bytes] = Deferred(lambda _: collector.abort())
    collector = _Collector(finished, gzipped=len(applied) if known else 0)
    response.deliverBody(collector)
    return finished


class _Collector(Protocol):
    """Collects a body of at most `MAX_BODY_BYTES`, before and after each decompression.

    `gzipped` is how many times the body is compressed.
    """

    def __init__(self, finished: Deferred[bytes], *, gzipped: int) -> None:
        self._finished: Deferred[bytes] | None = finished
        self._body = bytearray()
        self._received = 0
        self._gzips = [zlib.decompressobj(16 + zlib.MAX_WBITS) for _ in range(gzipped)]

    def dataReceived(self, data: bytes) -> None:
        if self._finished is None:
            return
        self._received += len(data)
        most = self._received
        try:
            for each in self._gzips:
                data = each.decompress(data, MAX_BODY_BYTES + 1)
                most = max(most, len(data))
        except zlib.error as error:
            self._fail(NotAnAnswer(f"A's answer cannot be decompressed: {error}"))
            return
        self._body += data
        if max(most, len(self._body)) > MAX_BODY_BYTES:
            self._fail(NotAnAnswer(f"A's answer has more than {MAX_BODY_BYTES} bytes"))

    def _fail(self, error: Exception) -> None:
        assert self._finished is not None
        finished, self._finished = self._finished, None
        self._body.clear()
        self.abort()
        finished.errback(error)

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

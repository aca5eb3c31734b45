"""What each kind of answer of A means, and how one is read: within limits, since an answer that
breaks them is none of A's contract.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, cast

import msgspec
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from werkzeug.http import parse_date

from rtprov.errors import NotConnected, RtprovError
from rtprov.model import State
from rtprov.security.tls_failures import explain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import ITCPTransport
    from twisted.web.iweb import IResponse

MAX_BODY_BYTES = 65536
MAX_HEAD_BYTES = 65536
MAX_LINE_BYTES = 16384  # Twisted's client reads no longer ones
MAX_INTERIM_ANSWERS = 20
TOO_LARGE = (
    f"the head of A's answer has more than {MAX_HEAD_BYTES} bytes, or a line of more than"
    f" {MAX_LINE_BYTES}"
)
OUTAGE_STATUSES = frozenset({502, 503, 504})


class NotAnAnswer(RtprovError):
    """What came from A is not HTTP, or too much of it. The message is the reason for the task's
    failure.

    `status` is what A's answer began with, where that much could be read.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _Answer(msgspec.Struct):
    """A's body, as far as it matters here."""

    code: int


_decode_answer = msgspec.json.Decoder(_Answer).decode

_FINAL_STATES = {200: State.COMPLETED, 404: State.NOT_FOUND, 500: State.FAILED}


def interpret(status: int, body: bytes) -> tuple[State, str]:
    """The final state that A's answer means, and why. An answer that is not A's contract is a
    failure.

    A byte order mark is passed over, as RFC 8259 §8.1 allows.
    """
    try:
        code = _decode_answer(body.removeprefix(codecs.BOM_UTF8)).code
    except (msgspec.DecodeError, RecursionError):
        return State.FAILED, f"A answered HTTP {status} with a body that is not its contract's"
    if code != status or status not in _FINAL_STATES:
        return State.FAILED, f"A answered HTTP {status} with code {code}, which is not its contract"
    return _FINAL_STATES[status], f"A answered {status}"


def retry_after_s(value: str | None, now: float) -> float | None:
    """The pause that a ``Retry-After`` field asks for (RFC 9110 §10.2.3: seconds or a date), or
    None where it says nothing sensible.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parse_date(value)
    except OverflowError:  # a year that no clock will ever show
        return None
    return max(0.0, date.timestamp() - now) if date else None


def answered_at(response: IResponse, now: float) -> float:
    """When A sent the answer by its own clock (RFC 9110 §6.6.1), in seconds since the epoch; `now`
    if it does not say.

    A date in ``Retry-After`` is by A's clock, too: ours may differ from it, or may have been set.
    """
    try:
        date = parse_date(header(response, b"date"))
    except OverflowError:
        return now
    return now if date is None else date.timestamp()


def header(response: IResponse, name: bytes) -> str | None:
    """The field's last value."""
    values = response.headers.getRawHeaders(name)
    return values[-1].decode("latin-1").strip() if values else None


# What went wrong.


def reasons_of(error: BaseException) -> list[BaseException]:
    """The causes inside Twisted's wrapping exceptions, or the error itself."""
    if isinstance(error, (ResponseFailed, RequestTransmissionFailed)):
        return [inner for reason in error.reasons for inner in reasons_of(reason.value)]
    return [error]


def unusable_answer(error: BaseException) -> NotAnAnswer | None:
    """What is wrong with what A has answered; None if it has not, or its connection was lost on the
    way.

    Twisted's parser raises all sorts of errors (ValueError, KeyError) for what is not HTTP, so all
    count as that but for those that tell of a connection."""
    if isinstance(error, NotAnAnswer) or not isinstance(error, ResponseFailed):
        return error if isinstance(error, NotAnAnswer) else None
    reason = reasons_of(error)[0]  # a second one tells only of what is missing
    if isinstance(reason, NotAnAnswer):
        return reason
    return None if isinstance(reason, _LOST) else NotAnAnswer("A's answer is not HTTP")


_LOST = (ConnectionClosed, SSL.Error, OSError)


def summary(reasons: list[BaseException]) -> str:
    """One line for log and journal: the reasons in words, or by class and message; they speak of
    connections, never of bodies.
    """
    return "; ".join(dict.fromkeys(_in_words(reason) for reason in reasons))


def _in_words(reason: BaseException) -> str:
    if isinstance(reason, NotConnected):
        return str(reason)
    return explain(reason) or f"{type(reason).__name__}: {reason}".strip(": ")


# The limits.


class HeadLimit(ProtocolWrapper):
    """Stands between a connection to A and Twisted's HTTP client, and ends the connection when an
    answer's head is too large.

    The client's own parser keeps any number of fields and reads interim answers (1xx) for ever. At
    a line that is too long it closes the connection without a word, which would look like an
    outage. `NotAnAnswer` is the reason that it is given instead."""

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
        """A request is written, and an answer comes next."""
        if not self._in_head:
            self._in_head = True
            self._line = b""  # the part of a line that has arrived
            self._status: int | None = None  # of the head that is arriving
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
        """Follow the head to its end, which may lie within `data`; return what is wrong with it."""
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
    """The status in an answer's first line, if there is one."""
    try:
        return int(line.split(b" ", 2)[1])
    except (IndexError, ValueError):
        return None


async def read_unless_outage(response: IResponse) -> bytes:
    """The answer's body, or nothing if it is too large and a gateway's: its page says nothing to
    us.

    Raises `NotAnAnswer`, or what tells of a connection that was lost. Cancelling closes the
    connection."""
    try:
        return await _read(response)
    except NotAnAnswer:
        if response.code in OUTAGE_STATUSES:
            return b""
        raise


def _read(response: IResponse) -> Deferred[bytes]:
    finished: Deferred[bytes] = Deferred(lambda _: collector.abort())
    collector = _Collector(finished)
    response.deliverBody(collector)
    return finished


class _Collector(Protocol):
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
            # The body's transport is a proxy that has abortConnection where the connection has one.
            getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        finished, self._finished = self._finished, None
        if finished is None or finished.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            finished.callback(bytes(self._body))
        else:
            finished.errback(reason)

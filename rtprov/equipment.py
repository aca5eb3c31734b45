"""Service A as a client sees it: one HTTPS call a task, and what each kind of answer, or of silence, means.

`HttpEquipment` implements `rtprov.interfaces.Equipment`. It makes one attempt; whoever calls it decides about another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from twisted.internet import defer
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError  # the one reason among ResponseFailed.reasons that is no outage; not exported elsewhere
from twisted.web.client import RequestTransmissionFailed, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from werkzeug.http import parse_date
from zope.interface import implementer

from rtprov.amqp.tls_failures import explain
from rtprov.errors import EquipmentSilent, EquipmentUnreachable
from rtprov.model import State, Task
from rtprov.reachability import Reachability

if TYPE_CHECKING:
    from collections.abc import Callable

    from treq.client import HTTPClient
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.iweb import IResponse

MIN_WAIT_S = 60
ANSWER_GRACE_S = 30
MAX_ANSWER_BYTES = 65536
OUTAGE_STATUSES = frozenset({502, 503, 504})


def answer_deadline_s(timeout_s: int) -> int:
    """How long A may take for a request whose ``timeoutInSeconds`` is `timeout_s`."""
    return max(timeout_s, MIN_WAIT_S) + ANSWER_GRACE_S


class _Answer(msgspec.Struct):
    """A's body, as far as it matters here."""

    code: int


_decode_answer = msgspec.json.Decoder(_Answer).decode

_FINAL_STATES = {200: State.COMPLETED, 404: State.NOT_FOUND, 500: State.FAILED}


def interpret(status: int, body: bytes) -> tuple[State, str]:
    """The final state that A's answer means, and why. An answer that is not A's contract is a failure."""
    try:
        code = _decode_answer(body).code
    except (msgspec.DecodeError, RecursionError):
        return State.FAILED, f"A answered HTTP {status} with a body that is not its contract's"
    if code != status or status not in _FINAL_STATES:
        return State.FAILED, f"A answered HTTP {status} with code {code}, which is not its contract"
    return _FINAL_STATES[status], f"A answered {status}"


def retry_after_s(value: str | None, now: float) -> float | None:
    """The pause that a ``Retry-After`` field asks for (RFC 9110 §10.2.3: seconds or a date), or None where it says nothing sensible."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parse_date(value)
    except OverflowError:  # a year that no clock will ever show
        return None
    return max(0.0, date.timestamp() - now) if date else None


class HttpEquipment:
    """Calls A over a treq client, which brings verified TLS and the connection pool.

    `wall_clock` gives seconds since the epoch (for ``Retry-After`` dates).
    """

    _log = Logger()

    def __init__(self, *, client: HTTPClient, base_url: str, clock: IReactorTime, wall_clock: Callable[[], float]) -> None:
        self._client = client
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._wall_clock = wall_clock
        self._reachability = Reachability()

    def configure(self, task: Task, body: bytes) -> Deferred[tuple[State, str]]:
        """See `rtprov.interfaces.Equipment.configure`. Cancelling closes the connection to A."""
        return Deferred.fromCoroutine(self._configure(task, body))

    async def _configure(self, task: Task, body: bytes) -> tuple[State, str]:
        wait_s = answer_deadline_s(task.timeout_s)
        call = Deferred.fromCoroutine(self._call(task, body))
        call.addTimeout(wait_s, self._clock)
        try:
            outcome = await call
        except defer.TimeoutError:
            raise EquipmentSilent(f"A gave no answer within {wait_s} s") from None
        except _NotAnAnswer as error:
            outcome = State.FAILED, str(error)
        return outcome

    def _note_answer(self) -> None:
        """Say that A can be reached again, if it could not before."""
        if self._reachability.answered():
            self._log.info("A can be reached again")

    def _note_miss(self, device: str, reasons: list[BaseException]) -> None:
        """Say why A, the service, cannot be reached: once for each reason, not for each task, and not for one device alone."""
        connected = any(isinstance(reason, (ConnectionDone, ConnectionLost)) for reason in reasons)
        reason = _summary(reasons)
        if self._reachability.missed(device, reason, connected=connected, now=self._clock.seconds()):
            self._log.warn("A cannot be reached: {reason}; its tasks are tried again until their patience is over", reason=reason)

    async def _call(self, task: Task, body: bytes) -> tuple[State, str]:
        try:
            response = await self._client.post(
                f"{self._base_url}/api/v1/equipment/cpe/{task.equipment_id}",
                data=BytesBody(body),
                headers=Headers({"Content-Type": ["application/json"], "Accept": ["application/json"], "Idempotency-Key": [task.task_id]}),
                allow_redirects=False,
            )
            answer = await _read_unless_outage(response)
        except (_NotAnAnswer, defer.CancelledError):
            raise
        except Exception as error:
            # Refused, reset, unknown host, failed TLS, closed without an answer: the ways not to reach A have no common base class.
            reasons = _reasons(error)
            if any(isinstance(reason, defer.CancelledError) for reason in reasons):
                raise defer.CancelledError from error
            if any(isinstance(reason, ParseError) for reason in reasons):
                raise _NotAnAnswer("A's answer is not HTTP") from error
            self._note_miss(task.equipment_id, reasons)
            raise EquipmentUnreachable(f"A cannot be reached: {_summary(reasons)}") from error
        self._note_answer()
        if response.code in OUTAGE_STATUSES:
            pause_s = retry_after_s(_header(response, b"retry-after"), self._wall_clock())
            raise EquipmentUnreachable(f"A answered HTTP {response.code}", pause_s)
        return interpret(response.code, answer)


@implementer(IBodyProducer)
class BytesBody:
    """A body that is at hand, written in one piece. (treq's own producer spreads it over turns of the global reactor.)"""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


class _NotAnAnswer(Exception):
    """What came from A is not HTTP, or too much of it."""


def _header(response: IResponse, name: bytes) -> str | None:
    values = response.headers.getRawHeaders(name)
    return values[-1].decode("latin-1").strip() if values else None


def _reasons(error: BaseException) -> list[BaseException]:
    """The causes inside Twisted's wrapping exceptions, or the error itself."""
    if isinstance(error, (ResponseFailed, RequestTransmissionFailed)):
        return [inner for reason in error.reasons for inner in _reasons(reason.value)]
    return [error]


def _summary(reasons: list[BaseException]) -> str:
    """One line for log and journal: the reasons in words, or by class and message; they speak of connections, never of bodies."""
    return "; ".join(dict.fromkeys(explain(reason) or f"{type(reason).__name__}: {reason}".strip(": ") for reason in reasons))


async def _read_unless_outage(response: IResponse) -> bytes:
    """The answer's body, or nothing where that is too large and a gateway's: its page says nothing to us."""
    try:
        return await _read(response)
    except _NotAnAnswer:
        if response.code in OUTAGE_STATUSES:
            return b""
        raise


def _read(response: IResponse) -> Deferred[bytes]:
    """Fire with the whole body. Fails with `_NotAnAnswer` when it is larger than any answer of A, with ResponseFailed when it is cut short.

    Cancelling closes the connection.
    """
    finished: Deferred[bytes] = Deferred(lambda _: collector.abort())
    collector = _Collector(finished)
    response.deliverBody(collector)
    return finished


class _Collector(Protocol):
    def __init__(self, finished: Deferred[bytes]) -> None:
        self._finished: Deferred[bytes] | None = finished
        self._body = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_ANSWER_BYTES and self._finished is not None:
            finished, self._finished = self._finished, None
            self.abort()
            finished.errback(_NotAnAnswer(f"A's answer has more than {MAX_ANSWER_BYTES} bytes"))

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

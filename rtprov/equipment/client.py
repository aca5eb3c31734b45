"""The HTTP client of service A: one HTTPS call per task.

`HttpEquipment` implements `rtprov.interfaces.Equipment`. It makes one attempt; its caller decides
whether to make another one. `rtprov.equipment.answers` defines what answers mean.
"""

from __future__ import annotations

from http.cookiejar import CookieJar
from typing import TYPE_CHECKING, Any, cast

from hyperlink import EncodedURL
from treq.client import HTTPClient
from twisted.internet import defer
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.web.client import Agent, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from rtprov.equipment.answer_limits import OUTAGE_STATUSES, HeadLimit, read_body, set_codings_aside
from rtprov.equipment.answers import (
    answered_at,
    header,
    interpret,
    reasons_of,
    retry_after_s,
    summary,
    unusable_answer,
)
from rtprov.equipment.reachability import Reachability
from rtprov.errors import EquipmentSilent, EquipmentUnreachable, OutOfResources
from rtprov.model import State, Task
from rtprov.network.hosts import for_treq
from rtprov.tracing.traceparent import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IReactorTime
    from twisted.web.client import URI

# Without this, each connection to A would write two log lines. There is no public option for it.
_HTTP11ClientFactory.noisy = False

MIN_WAIT_S = 60
ANSWER_GRACE_S = 30
SHORTAGE_LOGGED_EVERY_S = 60.0
# A proxy in front of A closes idle connections after some seconds (nginx 75, node 5, some 1). If it
# does so while a request is written, the call counts as an outage. So connections are kept only for
# a moment; under load, the next call uses one at once.
IDLE_TO_A_S = 0.5


def answer_deadline_s(timeout_s: int) -> int:
    """Return how many seconds A may take for a request with this ``timeoutInSeconds``."""
    return max(timeout_s, MIN_WAIT_S) + ANSWER_GRACE_S


class HttpEquipment:
    """Calls A with treq through `agent`, which connects to A over verified TLS.

    See `equipment_agent`. `base_url` is A's URL. `wall_clock` returns seconds since the epoch, for
    dates in ``Retry-After``.
    """

    _log = Logger()

    def __init__(
        self, *, agent: IAgent, base_url: str, clock: IReactorTime, wall_clock: Callable[[], float]
    ) -> None:
        self._cookies = _NoCookies()
        self._client = HTTPClient(agent, cast("Any", self._cookies))  # any `CookieJar` will do
        self._base_url, self._host = for_treq(base_url.rstrip("/"))
        self._clock = clock
        self._wall_clock = wall_clock
        self._reachability = Reachability()
        self._shortage_logged_at: float | None = None

    def configure(self, task: Task, body: bytes) -> Deferred[tuple[State, str]]:
        """See `rtprov.interfaces.Equipment.configure`. Cancelling closes the connection to A."""
        return Deferred.fromCoroutine(self._configure(task, body))

    async def _configure(self, task: Task, body: bytes) -> tuple[State, str]:
        """Make one call. Its deadline starts when the request is written."""
        wait_s = answer_deadline_s(task.timeout_s)
        timers: list[IDelayedCall] = []
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            call.cancel()

        order = BytesBody(body, lambda: timers.append(self._clock.callLater(wait_s, give_up)))
        call = Deferred.fromCoroutine(self._call(task, order))
        try:
            return await call
        except defer.CancelledError:
            if late:
                raise EquipmentSilent(f"A gave no answer within {wait_s} s") from None
            raise
        finally:
            for timer in timers:
                if timer.active():
                    timer.cancel()

    def _note_answer(self) -> None:
        """Log that A can be reached again, if it could not before."""
        if self._reachability.answered():
            self._log.info("A can be reached again", event="equipment.reachable")

    def _note_unanswered(self, device: str, reasons: list[BaseException]) -> None:
        """Log why A cannot be reached: once for each reason, not for each task.

        One device without an answer is not logged.
        """
        connected = any(isinstance(reason, (ConnectionDone, ConnectionLost)) for reason in reasons)
        reason = summary(reasons)
        if self._reachability.unanswered(
            device, reason, connected=connected, now=self._clock.seconds()
        ):
            self._log.warn(
                "A cannot be reached: {reason}; tasks are tried again until --patience is over",
                event="equipment.unreachable",
                reason=reason,
            )

    def _note_shortage(self, error: OutOfResources) -> None:
        """Log at most once a minute which resource this machine lacks."""
        now = self._clock.seconds()
        if (
            self._shortage_logged_at is None
            or now - self._shortage_logged_at >= SHORTAGE_LOGGED_EVERY_S
        ):
            self._shortage_logged_at = now
            self._log.warn(
                "calls to A wait for resources of this machine (tasks lose no patience meanwhile):"
                " {error}",
                error=error,
            )

    async def _call(self, task: Task, body: BytesBody) -> tuple[State, str]:
        try:
            response = await self._client.post(
                _Encoded(f"{self._base_url}/api/v1/equipment/cpe/{task.equipment_id}"),
                data=body,
                headers=self._headers(task),
                cookies=self._cookies,
                allow_redirects=False,
                unbuffered=True,
            )
            answer = await read_body(response)
        except defer.CancelledError:
            raise
        except OutOfResources as error:
            self._note_shortage(error)
            raise
        except Exception as error:
            return self._failed(task.equipment_id, error)
        self._note_answer()
        if response.code in OUTAGE_STATUSES:
            pause_s = retry_after_s(
                header(response, b"retry-after"), answered_at(response, self._wall_clock())
            )
            raise EquipmentUnreachable(f"A answered HTTP {response.code}", pause_s)
        return interpret(response.code, answer)

    def _headers(self, task: Task) -> Headers:
        headers = {
            "Host": [self._host],
            "Content-Type": ["application/json"],
            "Accept": ["application/json"],
            "Idempotency-Key": [task.task_id],
        }
        if task.traceparent is not None:
            headers[HEADER] = [task.traceparent]
        return Headers(headers)

    def _failed(self, device: str, error: Exception) -> tuple[State, str]:
        """Return the outcome of a call that ended in an error.

        Raises `EquipmentUnreachable` if A sent no answer. Such errors (refused, reset, unknown
        host, failed TLS, closed without an answer) have no common base class.
        """
        reasons = reasons_of(error)
        if any(isinstance(reason, defer.CancelledError) for reason in reasons):
            raise defer.CancelledError from error
        wrong = unusable_answer(error)
        if wrong is None:
            self._note_unanswered(device, reasons)
            raise EquipmentUnreachable(f"A cannot be reached: {summary(reasons)}") from error
        self._note_answer()
        return State.FAILED, str(wrong)


class _NoCookies(CookieJar):
    """Keeps no cookie of an answer: it would be sent with the orders of other devices."""

    def add_cookie_header(self, request: object) -> None: ...

    def extract_cookies(self, response: object, request: object) -> None: ...


class _Encoded(EncodedURL):
    """A URL in its encoded form. treq would encode it for each call, which takes 0.1 ms."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        super().__init__()  # treq uses none of the parts
        self._text = text

    def to_uri(self) -> EncodedURL:
        return self

    def to_text(self, with_password: bool = False) -> str:
        return self._text


@implementer(IBodyProducer)
class BytesBody:
    """A request body that is written in one piece. `on_start` is called when that begins."""

    def __init__(self, body: bytes, on_start: Callable[[], None] = lambda: None) -> None:
        self._body = body
        self._on_start = on_start
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._on_start()
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


def equipment_agent(
    endpoint: IStreamClientEndpoint, *, concurrency: int, clock: IReactorTime
) -> IAgent:
    """Return an agent that sends every request to `endpoint`, and limits the heads of answers.

    It keeps up to `concurrency` persistent connections. It never repeats a POST by itself.
    """
    pool = HTTPConnectionPool(clock, persistent=True)
    pool.maxPersistentPerHost = concurrency
    pool.cachedConnectionTimeout = IDLE_TO_A_S  # type: ignore[assignment] # any number of seconds
    pool.retryAutomatically = False
    return _CodingsSetAside(
        cast("IAgent", Agent.usingEndpointFactory(clock, _Limited(endpoint), pool))
    )


@implementer(IAgent)
class _CodingsSetAside:
    """See `set_codings_aside`."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        requested = self._agent.request(method, uri, headers, bodyProducer)
        return cast("Deferred[IResponse]", requested.addCallback(set_codings_aside))


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Limited:
    """Connects to one server for every URL, and limits the heads of its answers."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        limited: WrappingFactory[HeadLimit] = WrappingFactory(protocolFactory)
        limited.protocol = HeadLimit
        limited.noisy = False
        return self._endpoint.connect(limited).addCallback(
            lambda protocol: cast("HeadLimit", protocol).wrappedProtocol
        )

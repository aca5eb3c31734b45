"""Services that listen on a port: the front end, the stub, the broker, ``--health-listen``."""

from __future__ import annotations

import errno
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    TimeoutError,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtprov.errors import ConfigurationError, TemporarilyUnavailable, refusal
from rtprov.http.counting_site import CountingSite
from rtprov.http.health import Health
from rtprov.http.refusals import Refusals
from rtprov.http.site import IDLE_TIMEOUT_S, JsonSite
from rtprov.http.traffic import Traffic
from rtprov.network.proxy_protocol import ProxiedEndpoint
from rtprov.readiness import Readiness
from rtprov.security.tls_server import ServerIdentity, TLSEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klein import Klein
    from twisted.internet.interfaces import IProtocolFactory, IReactorTime
    from twisted.web.resource import IResource

    from rtprov.frontend.service import FrontendService
    from rtprov.http.admission import Admission
    from rtprov.metrics.registry import Registry
    from rtprov.network.address_networks import Network
    from rtprov.security.limits import Connections
    from rtprov.tap.option_values import DescribedEndpoint

_log = Logger()
ANSWERED_WITHIN_S = 5.0
OPEN_WITHIN_S = 4.0  # the time of a request runs meanwhile: it must be answered within 5 s
EXAMPLE = "an address and port that this process may use, such as tcp:8443:interface=127.0.0.1"
FIRST_REQUEST_WITHIN_S = 2.0
FLUSH_S = 0.1  # time for the last answer's bytes to leave the process


class Listening(Service):
    """Listens on `endpoint` from the start of the process to its stop.

    `what` names the service in the log, `where` is the endpoint's description for error messages,
    `option` the command-line option that sets it, `proxies` the networks whose connections begin
    with a PROXY header. With `public_bind_refusal`, only addresses of the
    loopback interface are allowed; the text says why, and which option changes that."""

    option = "--listen"
    proxies: Sequence[Network] = ()

    def __init__(
        self,
        what: str,
        where: str,
        endpoint: IStreamServerEndpoint,
        factory: IProtocolFactory,
        public_bind_refusal: str | None = None,
    ) -> None:
        self._what = what
        self.where = where
        self._endpoint = endpoint
        self._factory = factory
        self._public_bind_refusal = public_bind_refusal
        self.port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Open the port.

        Raises `ConfigurationError` if that fails, or if the address is not allowed by
        `public_bind_refusal`.
        """
        super().privilegedStartService()
        failures: list[Failure] = []
        self._endpoint.listen(self._factory).addCallbacks(self._on_port, failures.append)
        if failures:
            error: Any = getattr(failures[0].value, "socketError", failures[0].value)
            message = (
                f"{self._what} cannot listen on {self.where}:"
                f" {getattr(error, 'strerror', None) or error}"
            )
            if str(error) == "Cannot acquire lock":  # another process's unix: socket
                raise TemporarilyUnavailable(f"{message}; another process listens there")
            if getattr(error, "errno", None) != errno.EADDRINUSE:
                message += f"; set {self.option} to {EXAMPLE}"
            raise refusal(message, error)
        if self._public_bind_refusal is not None and not self._on_loopback:
            self.stopService()
            raise ConfigurationError(
                f"{self._what} must not listen on {self.address}, which other machines can reach:"
                f" {self._public_bind_refusal}"
            )

    def _on_port(self, port: IListeningPort) -> None:
        self.port = port

    def startService(self) -> None:
        super().startService()
        _log.info(
            "{what} listens on {address}",
            event="process.listens",
            what=self._what,
            address=self.address,
        )

    @property
    def address(self) -> str:
        """``host:port``, or the endpoint's description if it has no port."""
        host = self.host
        if hasattr(host, "port"):
            return f"[{host.host}]:{host.port}" if ":" in host.host else f"{host.host}:{host.port}"
        return self.where

    @property
    def host(self) -> Any:
        """The port's Twisted address, such as an IPv4Address; None before it listens."""
        return None if self.port is None else self.port.getHost()

    @property
    def _on_loopback(self) -> bool:
        """Whether only this machine can reach the port. True for a Unix socket."""
        host = getattr(self.host, "host", "127.0.0.1")
        address = ip_address(str(host).partition("%")[0])
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback

    @property
    def port_number(self) -> int:
        """The TCP port number. Call it only once the service listens."""
        assert self.port is not None
        return cast("int", cast("Any", self.port.getHost()).port)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self.port is None:
            return succeed(None)
        address = self.address
        stopping: Deferred[Any] = maybeDeferred(self.port.stopListening)
        return stopping.addCallback(
            lambda _: _log.info(
                "{what} no longer listens on {address}", what=self._what, address=address
            )
        )


class Answering(Listening):
    """Serves HTTP. When it is stopped, it waits for the requests under way, so that every POST gets
    an answer. New connections have 2 s to send their first request: their clients cannot know that
    they got the process that stops, and not the next one.

    The requests under way get 5 s, within which the front end answers any request. Each is the
    last one on its connection: the answer says ``Connection: close``. `release` is called first; it
    makes requests that wait for a status change answer at once.

    With a `stop_delay_s`, a stop first calls `leave`, which makes the service not ready, and keeps
    the port open for that long. Load balancers then choose another server, and clients leave the
    connections that they keep, before anything is refused."""

    stop_delay_s = 0.0

    def __init__(
        self,
        what: str,
        where: str,
        endpoint: IStreamServerEndpoint,
        site: CountingSite,
        clock: IReactorTime,
        public_bind_refusal: str | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(what, where, endpoint, site, public_bind_refusal)
        self._site = site
        self._clock = clock
        self._release = release
        self.leave: Callable[[], None] = lambda: None
        self._pause: Deferred[Any] | None = None

    @property
    def under_way(self) -> int:
        """How many requests are under way."""
        return self._site.under_way

    def serve(self, service: FrontendService) -> None:
        """Serve another front end from the next request on."""
        self._site.resource = service.frontend.resource()
        self._release, self.leave = service.release, service.readiness.stop

    def open_when(self, ready: Deferred[Any]) -> None:
        """Hold requests until `ready` fires, for 4 s at most.

        A client that connects as soon as the port is open then gets no 503.
        """
        self._site.hold()
        ready.addTimeout(OPEN_WITHIN_S, self._clock).addBoth(lambda _: self._site.open())

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    def stop_now(self) -> None:
        """End the delay of a stop."""
        self.stop_delay_s = 0.0
        if self._pause is not None:
            self._pause.cancel()

    async def _stop(self) -> None:
        if self.stop_delay_s:
            self.leave()
            self._site.close_after_answers()
            _log.info(
                "{what} is not ready any more, and closes its port in {delay_s:g} s",
                what=self._what,
                delay_s=self.stop_delay_s,
            )
            self._pause = deferLater(self._clock, self.stop_delay_s)
            with suppress(CancelledError):
                await self._pause
        await super().stopService()
        self._release()
        self._site.close()
        now = self._clock.seconds()
        until, arrived_until = now + ANSWERED_WITHIN_S, now + FIRST_REQUEST_WITHIN_S
        while self._site.expects_requests and self._clock.seconds() < arrived_until:
            await deferLater(self._clock, FLUSH_S)
        while self._site.under_way and self._clock.seconds() < until:
            with suppress(TimeoutError):
                await self._site.when_idle().addTimeout(until - self._clock.seconds(), self._clock)
            await deferLater(self._clock, FLUSH_S)


def health(
    where: DescribedEndpoint, readiness: Readiness, clock: IReactorTime, metrics: Registry
) -> Listening:
    """Return a service that answers ``/livez``, ``/readyz`` and ``/metrics`` over plain HTTP."""
    text, endpoint = where
    resource = Health(readiness, metrics).resource()
    listening = Listening("health", text, endpoint, JsonSite(resource, reactor=clock))
    listening.option = "--health-listen"
    return listening


def health_if(
    where: DescribedEndpoint | None, readiness: Readiness, clock: IReactorTime, metrics: Registry
) -> list[Listening]:
    """Return the service for ``--health-listen``, in a list that is empty if it is not given."""
    return [] if where is None else [health(where, readiness, clock, metrics)]


def traffic_of(app: Klein, clock: IReactorTime) -> Traffic:
    """Return the counts of requests for the routes of `app`."""
    return Traffic((rule.rule for rule in app.url_map.iter_rules()), clock.seconds)


def https(
    what: str,
    where: DescribedEndpoint,
    resource: IResource,
    identity: ServerIdentity,
    clock: IReactorTime,
    traffic: Traffic | None = None,
) -> Listening:
    """Return a service that serves a resource over HTTPS, and counts requests in `traffic`.

    Stopping it does not wait for the requests under way.
    """
    text, endpoint = where
    site = JsonSite(resource, reactor=clock, traffic=traffic)
    return Listening(what, text, TLSEndpoint(endpoint, identity, clock), site)


def front_end(
    where: DescribedEndpoint,
    service: FrontendService,
    identity: ServerIdentity,
    *,
    clock: IReactorTime,
    traffic: Traffic,
    admission: Admission | None = None,
    connections: Connections | None = None,
    timeout_s: float = IDLE_TIMEOUT_S,
    proxies: Sequence[Network] = (),
    public_bind_refusal: str | None = None,
    stop_delay_s: float = 0.0,
) -> Answering:
    """Return a service that serves the front end over HTTPS.

    `traffic` counts the requests. `admission` is the access control, `connections` limits the open
    connections, `timeout_s` is how long a request may take to arrive and a connection may stay
    idle. For `proxies` and `public_bind_refusal` see `Listening`, for `stop_delay_s` `Answering`.
    """
    text, endpoint = where
    if proxies:
        endpoint = ProxiedEndpoint(endpoint, clock, proxies)
    site = CountingSite(
        service.frontend.resource(),
        reactor=clock,
        admission=admission,
        refusals=Refusals(clock),
        traffic=traffic,
        timeout_s=timeout_s,
    )
    secure = TLSEndpoint(endpoint, identity, clock, connections)
    answering = Answering(
        "service B (front end)", text, secure, site, clock, public_bind_refusal, service.release
    )
    answering.proxies, answering.stop_delay_s = proxies, stop_delay_s
    answering.leave = service.readiness.stop
    return answering

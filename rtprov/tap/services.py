"""Twisted services that the commands are made of: listening, stopping in order, and what a newcomer reads in the log."""

from __future__ import annotations

import random
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from treq.client import HTTPClient
from twisted.application.service import IService, MultiService, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import wrapServerTLS
from twisted.internet.interfaces import IListeningPort, IReactorFromThreads, IReactorTime, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, _HTTP11ClientFactory

from rtprov.amqp.url import BrokerUrl
from rtprov.certs import SEAL_KEY, ensure_seal_key
from rtprov.errors import ConfigurationError
from rtprov.http import JsonSite
from rtprov.seal import FernetSealer, load_keys
from rtprov.tap.assembly import Surroundings, WorkerService
from rtprov.tls import VerifiedHTTPS, read_file, server_options

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocolFactory
    from twisted.internet.ssl import CertificateOptions
    from twisted.web.resource import IResource

    from rtprov.amqp.connection import BrokerConnection

log = Logger(namespace="rtprov")
clock = cast("IReactorTime", reactor)
threads = cast("IReactorFromThreads", reactor)

_HTTP11ClientFactory.noisy = False  # or each connection to A costs two lines of log; there is no public way to say so

CONNECT_TIMEOUT_S = 10.0
IDLE_TO_A_S = 60


class Listening(Service):
    """Listens on `endpoint` from the start of the process to its stop. `what` names it in the log, `where` in an error."""

    def __init__(self, what: str, where: str, endpoint: IStreamServerEndpoint, factory: IProtocolFactory) -> None:
        self._what = what
        self._where = where
        self._endpoint = endpoint
        self._factory = factory
        self.port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Raises `ConfigurationError` where the port cannot be had."""
        super().privilegedStartService()
        failures: list[Failure] = []
        self._endpoint.listen(self._factory).addCallbacks(self._on_port, failures.append)
        if failures:
            error = getattr(failures[0].value, "socketError", failures[0].value)
            raise ConfigurationError(f"{self._what} cannot listen on {self._where}: {getattr(error, 'strerror', None) or error}")

    def _on_port(self, port: IListeningPort) -> None:
        self.port = port

    def startService(self) -> None:
        super().startService()
        log.info("{what} listens on {address}", what=self._what, address=self.address)

    @property
    def address(self) -> str:
        """``host:port``, or whatever else the endpoint listens on."""
        host: Any = self.port.getHost() if self.port is not None else None
        if hasattr(host, "port"):
            return f"[{host.host}]:{host.port}" if ":" in host.host else f"{host.host}:{host.port}"
        return self._where

    @property
    def port_number(self) -> int:
        """The TCP port, once it listens."""
        assert self.port is not None
        return cast("int", cast("Any", self.port.getHost()).port)

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return succeed(None) if self.port is None else maybeDeferred(self.port.stopListening)


class Closing(Service):
    """Calls something when the process stops."""

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return maybeDeferred(self._close)


class InOrder(MultiService):
    """Services that start in the order in which they were added and stop one after the other in the reverse one."""

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for each in reversed(list(self)):
            await maybeDeferred(each.stopService)


class Command(InOrder):
    """All that a command runs. The first SIGTERM or SIGINT stops it, a second one cuts short what the first one waits for."""

    def __init__(self, *services: IService) -> None:
        super().__init__()
        for each in services:
            each.setServiceParent(self)

    def stopService(self) -> Deferred[None]:
        for number in (signal.SIGTERM, signal.SIGINT):
            # Twisted's own handler would only complain that the reactor is stopping already.
            signal.signal(number, lambda *_: threads.callFromThread(self.hurry))
        return super().stopService()

    def hurry(self) -> None:
        """Drain no longer."""
        log.warn("told to stop again: nothing is waited for any longer")
        for each in self:
            if isinstance(each, WorkerService):
                each.hurry()


def https(what: str, where: tuple[str, Any], resource: IResource, options: CertificateOptions) -> Listening:
    """Serve a resource over HTTPS."""
    text, endpoint = where
    return Listening(what, text, wrapServerTLS(options, endpoint, clock), JsonSite(resource, reactor=clock))


def certificate_options(options: dict[str, Any], role: str) -> CertificateOptions:
    """What a server command shows. Raises `ConfigurationError`."""
    certificate, key = identity_files(options, role)
    return server_options(certificate, key, options.get("client-ca"))


def identity_files(options: dict[str, Any], role: str) -> tuple[Path, Path]:
    """Certificate and key of a role: single files, or those of --certs. Raises `ConfigurationError` that says how to make a set."""
    certs: Path = options["certs"]
    certificate: Path = options.get("certificate") or certs / f"{role}.pem"
    key: Path = options.get("private-key") or certs / f"{role}.key"
    for file in (certificate, key):
        _require(file, certs)
    return certificate, key


def _require(file: Path, certs: Path) -> None:
    if file.parent == certs and not file.exists():
        raise ConfigurationError(f"{file} is missing; python -m rtprov.certs {certs} makes a set for development")


def ca_file(options: dict[str, Any]) -> Path:
    """The CA that vouches for the servers we call. Raises `ConfigurationError`."""
    certs: Path = options["certs"]
    file: Path = options.get("ca") or certs / "ca.pem"
    _require(file, certs)
    return file


def sealer(options: dict[str, Any]) -> FernetSealer:
    """The sealer on the key file, which is made where it is missing. Raises `ConfigurationError`."""
    file: Path = options.get("seal-keys") or options["certs"] / SEAL_KEY
    if ensure_seal_key(file):
        log.warn("made a new sealing key: {file}; every front end and worker needs this same file", file=str(file))
    text = read_file(file, "sealing keys").decode("utf-8", "replace")
    try:
        return FernetSealer(load_keys(text))
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from None


def surroundings(broker: IStreamClientEndpoint, url: BrokerUrl) -> Surroundings:
    """The real process: its reactor, its clock, its randomness."""
    return Surroundings(
        clock=clock,
        wall_clock=time.time,
        rng=random.Random(),
        new_id=lambda: secrets.token_hex(16),
        broker=broker,
        broker_url=url,
    )


def https_client(policy: VerifiedHTTPS, concurrency: int) -> HTTPClient:
    """An HTTP client with as many persistent connections as there are calls. A POST is never repeated behind our back."""
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = concurrency
    pool.cachedConnectionTimeout = IDLE_TO_A_S
    pool.retryAutomatically = False
    return HTTPClient(Agent(reactor, contextFactory=policy, connectTimeout=CONNECT_TIMEOUT_S, pool=pool))


def first_steps(connection: BrokerConnection, listening: Listening, ca: Path) -> None:
    """The banner, once the front end is connected to its broker: the line to try first."""
    connection.when_connected().addCallback(lambda _: _show_first_steps(listening.address, ca))


def _show_first_steps(address: str, ca: Path) -> None:
    port = address.rpartition(":")[2]
    body = '{"timeoutInSeconds": 14, "parameters": [{"vlan": 534}]}'
    log.info(
        "ready; try: curl --cacert {ca} -H 'Content-Type: application/json' -d '{body}' https://localhost:{port}/api/v1/equipment/cpe/ABC123456",
        ca=str(ca),
        body=body,
        port=port,
    )

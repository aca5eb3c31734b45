"""What the commands are made of: stopping in order, the files that options name, clients, and what a newcomer reads in the log."""

from __future__ import annotations

import random
import secrets
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from treq.client import HTTPClient
from twisted.application.service import IService, MultiService, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads, IStreamClientEndpoint
from twisted.web.client import Agent, HTTPConnectionPool, _HTTP11ClientFactory

from rtprov.amqp.url import BrokerUrl
from rtprov.certs import SEAL_KEY, ensure_seal_key
from rtprov.errors import ConfigurationError
from rtprov.seal import FernetSealer, load_keys
from rtprov.tap.assembly import Surroundings, WorkerService
from rtprov.tap.files import open_files
from rtprov.tap.listening import Listening, log
from rtprov.tap.renewal import Renewal, warn_of_expiry
from rtprov.tap.timing import TimeWatch, clock, wall_clock
from rtprov.tls import VerifiedHTTPS, read_file
from rtprov.tls_server import ServerIdentity

if TYPE_CHECKING:
    from rtprov.amqp.connection import BrokerConnection

threads = cast("IReactorFromThreads", reactor)

_HTTP11ClientFactory.noisy = False  # or each connection to A costs two lines of log; there is no public way to say so

CONNECT_TIMEOUT_S = 10.0
IDLE_TO_A_S = 60


class Closing(Service):
    """Calls something when the process stops."""

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return maybeDeferred(self._close)


class InOrder(MultiService):
    """Services that start in the order in which they were added, and stop one after the other in the reverse one, all of them."""

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for each in reversed(list(self)):
            try:
                await maybeDeferred(each.stopService)
            except Exception:
                log.failure("{service} did not stop in good order", service=type(each).__name__)


class Command(InOrder):
    """All that a command runs. The first SIGTERM or SIGINT stops it, a second one cuts short what the first one waits for.

    SIGHUP has the files loaded again that can be replaced while it runs.
    """

    def __init__(self, *services: IService) -> None:
        super().__init__()
        open_files()
        TimeWatch().setServiceParent(self)
        for each in services:
            each.setServiceParent(self)

    def startService(self) -> None:
        super().startService()
        if hasattr(signal, "SIGHUP") and any(isinstance(each, Renewal) for each in self):
            signal.signal(signal.SIGHUP, lambda *_: threads.callFromThread(self.reload))

    def reload(self) -> None:
        """Load certificates and tokens again."""
        for each in self:
            if isinstance(each, Renewal):
                each.reload()

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


def server_identity(options: dict[str, Any], role: str) -> ServerIdentity:
    """What a server command shows. Raises `ConfigurationError`."""
    certificate, key = identity_files(options, role)
    identity = ServerIdentity(certificate, key, options.get("client-ca"))
    warn_of_expiry(*identity.certificates)
    return identity


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
        wall_clock=wall_clock,
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


def first_steps(connections: Sequence[BrokerConnection], listening: Listening, options: dict[str, Any]) -> None:
    """The banner, once all are connected to their broker: the line to try first."""
    all_connected(connections).addCallback(lambda _: _show_first_steps(listening, options))


def all_connected(connections: Sequence[BrokerConnection]) -> Deferred[Any]:
    """Fire once each of them is connected."""
    return gatherResults([connection.when_connected() for connection in connections], consumeErrors=True)


def _show_first_steps(listening: Listening, options: dict[str, Any]) -> None:
    if options.get("client-ca") is not None or options.get("tokens") is not None:
        log.info("ready")  # whoever has one of those needs no first steps
        return
    ca: Path = options["certs"] / "ca.pem"
    log.info(
        "ready; try: curl {trust}-H 'Content-Type: application/json' -d '{body}' https://localhost:{port}/api/v1/equipment/cpe/ABC123456",
        trust=f"--cacert {shlex.quote(str(ca))} " if ca.exists() else "",
        body='{"timeoutInSeconds": 14, "parameters": [{"vlan": 534}]}',
        port=listening.address.rpartition(":")[2],
    )

"""``twistd rtprov-broker``: the embedded broker alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import attrs
from twisted.application.service import IService, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from rtprov.broker.server.broker import Broker, make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.server.metrics import broker_metrics
from rtprov.broker.storage.metrics import storage_metrics
from rtprov.broker.storage.sqlite import SqliteStorage
from rtprov.errors import NotReady
from rtprov.messaging.probe import PROBE_DEADLINE_S
from rtprov.readiness import Readiness
from rtprov.security.tls_server import TLSEndpoint
from rtprov.tap import options as opt
from rtprov.tap.command import Closing, Command, SequentialMultiService
from rtprov.tap.identity import server_identity
from rtprov.tap.listening import Listening, health_if
from rtprov.tap.option_values import DescribedEndpoint
from rtprov.tap.process import clock
from rtprov.tap.reloading import Renewal
from rtprov.tap.service_manager import Condition

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_log = Logger()
CLOSE_DEADLINE_S = 10.0
GUEST = "guest"
GUEST_REFUSAL = (
    "the password is guest, the public default; set --user and --password, or RTPROV_USER and"
    " RTPROV_PASSWORD"
)


class Options(opt.CommandOptions):
    longdesc = (
        "Runs the embedded AMQP 0-9-1 broker alone. Confirmed messages are stored in --state and"
        " survive a crash."
    )
    command = "rtprov-broker"
    options = (
        opt.listen("tcp:5673:interface=127.0.0.1"),
        opt.HEALTH_LISTEN,
        opt.LOG_FORMAT,
        opt.STATE,
        opt.USER,
        opt.PASSWORD,
        opt.TLS,
        opt.BROKER_CERTS,
        opt.CERTIFICATE,
        opt.PRIVATE_KEY,
        opt.NO_GC_TUNING,
    )


@attrs.frozen
class Settings(opt.CommandSettings):
    """The values of `Options`."""

    listen: DescribedEndpoint
    health_listen: DescribedEndpoint | None
    log_format: str
    state: Path
    user: str
    password: str = attrs.field(repr=False)
    tls: bool
    certs: Path
    certificate: Path | None
    private_key: Path | None


class BrokerService(SequentialMultiService):
    """The embedded broker: its listening port and its stored state.

    `where` is an endpoint description and its endpoint, `state` the folder of the database.
    `max_age_s` limits how long journals are kept, in seconds; with None only the arguments of the
    queues count. `option` is the command-line option for the port, which error messages name.

    The database is opened when the service starts, not earlier: twistd may fork before that, and
    an open SQLite database does not survive a fork."""

    option = "--listen"

    def __init__(
        self,
        where: DescribedEndpoint,
        state: Path,
        *,
        username: str = GUEST,
        password: str = GUEST,
        max_age_s: float | None = None,
    ) -> None:
        super().__init__()
        self._max_age_s = max_age_s
        self._where = where
        self._state = state
        self._credentials = (username, password)
        self._writer = ThreadPool(1, 1, name="rtprov-state")
        self.listening: Listening
        self._storage: SqliteStorage | None = None
        self._broker: Broker | None = None
        self.readiness = Readiness(self._probe, clock)

    async def _probe(self) -> None:
        """Raise `NotReady` if the broker is not running or cannot write its state."""
        if not self.running or self._storage is None:
            raise NotReady("Not ready: the broker is starting or stopping")
        try:
            await self._storage.probe().addTimeout(PROBE_DEADLINE_S, clock)
        except (sqlite3.Error, OSError, TimeoutError):
            raise NotReady("Not ready: the broker's state cannot be written") from None

    def metrics(self) -> Iterator[Metric]:
        """Return the broker's metrics; none before its state is open."""
        if self._broker is not None and self._storage is not None:
            yield from broker_metrics(self._broker)
            yield from storage_metrics(self._storage)

    def privilegedStartService(self) -> None:
        """Open the state and the port.

        Raises `ConfigurationError` if either cannot be opened, or if the port is reachable from
        other machines and the password is the default one.
        """
        run = partial(deferToThreadPool, cast("IReactorFromThreads", reactor), self._writer)
        storage = self._storage = SqliteStorage(directory=self._state, run=run, clock=clock)
        username, password = self._credentials
        broker = self._broker = make_broker(
            clock=clock,
            storage=storage,
            username=username,
            password=password,
            max_age_s=self._max_age_s,
        )
        Closing(partial(_close, broker, storage, self._writer)).setServiceParent(self)
        text, endpoint = self._where
        self.listening = Listening(
            "the AMQP broker",
            text,
            endpoint,
            BrokerFactory(broker),
            GUEST_REFUSAL if password == GUEST else None,
        )
        self.listening.option = self.option
        self.listening.setServiceParent(self)
        super().privilegedStartService()

    def startService(self) -> None:
        # Only after everything else has succeeded: a running thread would keep a process that
        # failed to start from ending.
        self._writer.start()
        super().startService()


def _close(broker: Broker, storage: SqliteStorage, pool: ThreadPool) -> Deferred[None]:
    return Deferred.fromCoroutine(_close_in_order(broker, storage, pool))


async def _close_in_order(broker: Broker, storage: SqliteStorage, pool: ThreadPool) -> None:
    try:
        await broker.stop()
        await storage.close().addTimeout(CLOSE_DEADLINE_S, clock)
    except TimeoutError:
        _log.error(
            "could not write the broker's state within {seconds:.0f} s; stopping without it,"
            " unconfirmed messages are lost",
            seconds=CLOSE_DEADLINE_S,
        )
    finally:
        pool.stop()


def makeService(options: Options) -> IService:
    settings = Settings.from_options(options)
    text, endpoint = settings.listen
    renewals: list[Service] = []
    if settings.tls or settings.certificate is not None or settings.private_key is not None:
        identity = server_identity(
            "broker",
            certs=settings.certs,
            certificate=settings.certificate,
            private_key=settings.private_key,
        )
        endpoint = TLSEndpoint(endpoint, identity, clock)
        renewals.append(Renewal(identity, clock=clock))
    broker = BrokerService(
        (text, endpoint), settings.state, username=settings.user, password=settings.password
    )
    command = Command(options, *renewals)
    command.metrics.add(broker.metrics)
    health = health_if(settings.health_listen, broker.readiness, clock, command.metrics)
    for each in (*health, broker):
        each.setServiceParent(command)
    command.condition = lambda: Condition(
        True,
        f"listening on {broker.listening.address}"
        if command.running
        else "stopping; writing the state",
    )
    return cast("IService", command)

"""``twistd rtprov``: a stub of service A, service B, the worker and the broker in one process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import attrs
from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.logger import Logger

from rtprov.amqp.client.url import BrokerUrl
from rtprov.frontend.metrics import frontend_metrics
from rtprov.frontend.resource import Frontend
from rtprov.frontend.service import FrontendService
from rtprov.http.traffic import Traffic
from rtprov.messaging.connection_metrics import connection_metrics
from rtprov.messaging.environment import Environment
from rtprov.messaging.topology import JOURNAL_MAX_AGE_S, Shard
from rtprov.network.address_networks import Network
from rtprov.readiness import Readiness
from rtprov.security.development import make_development_set
from rtprov.security.tokens import Role
from rtprov.tap import options as opt
from rtprov.tap.banner import all_connected, log_ready
from rtprov.tap.broker import GUEST, BrokerService
from rtprov.tap.command import Command
from rtprov.tap.frontend import check_proxies, make_admission, public_bind_refusal
from rtprov.tap.gc_tuning import freeze_once_connected
from rtprov.tap.history import make_history
from rtprov.tap.identity import key_file, server_identity
from rtprov.tap.listening import Listening, front_end, health_if, https, traffic_of
from rtprov.tap.option_values import DescribedEndpoint, server_endpoint
from rtprov.tap.process import clock, environment
from rtprov.tap.reloading import Renewal
from rtprov.tap.service_manager import Condition
from rtprov.tap.stub import make_stub
from rtprov.tap.worker import make_verified_servers, make_worker, room_for_calls
from rtprov.worker.metrics import worker_metrics
from rtprov.worker.service import WorkerService
from rtprov.worker.settings import WorkerSettings

_log = Logger()
# Open files for each call: both ends of the connection to the stub, and the connection of a client
# that waits for the task.
FILES_PER_CALL = 3
SHORTEST_JOURNAL_S = 3600.0


class Options(opt.CommandOptions):
    longdesc = (
        "Runs everything in one process: a stub of service A, service B, the worker and the"
        " embedded broker."
    )
    command = "rtprov"
    options = (
        opt.FRONT_END_LISTEN,
        opt.PORT,
        opt.STUB_PORT,
        opt.BROKER_PORT,
        opt.HEALTH_LISTEN,
        opt.LOG_FORMAT,
        opt.CERTS,
        opt.CLIENT_CA,
        opt.TOKENS,
        opt.ROLE_OF,
        opt.OPEN,
        opt.PROXY_PROTOCOL,
        opt.OTHER_EQUIPMENT_URL,
        opt.CONCURRENCY,
        opt.MAX_CALLS_PER_SECOND,
        opt.stub_delay("stub-delay"),
        opt.HONOUR_TIMEOUT,
        opt.SCENARIO,
        opt.RUNNING_STATUS,
        opt.STATE,
        opt.RETENTION,
        opt.HISTORY,
        opt.HISTORY_DAYS,
        opt.PATIENCE,
        opt.DRAIN,
        opt.BATCH_EVENTS,
        opt.NO_GC_TUNING,
    )

    def check(self) -> None:
        self.exclude("listen", "port")
        check_proxies(self)


@attrs.frozen
class Settings(opt.CommandSettings):
    """The values of `Options`; times are in seconds."""

    listen: DescribedEndpoint | None
    port: int
    stub_port: int
    broker_port: int
    health_listen: DescribedEndpoint | None
    log_format: str
    certs: Path
    client_ca: Path | None
    tokens: Path | None
    role_of: Sequence[tuple[str, Role]]
    open: bool
    proxy_protocol: Sequence[Network]
    equipment_url: str | None
    concurrency: int
    max_calls_per_second: float | None
    stub_delay: float
    honour_timeout: bool
    scenario: Path | None
    running_status: int
    state: Path
    retention: float
    history: Path | None
    history_days: int
    patience: float
    drain: float
    batch_events: bool


def _on_loopback(port: int) -> DescribedEndpoint:
    return server_endpoint(f"tcp:{port}:interface=127.0.0.1")


class _Everything(Command):
    """The broker and the stub listen first. The worker and the front end are created once the ports
    of those two are known.
    """

    def __init__(self, options: Options, settings: Settings) -> None:
        super().__init__(options)
        self.condition = self._condition
        self._settings = settings
        self._spans = self.trace()
        if make_development_set(settings.certs):
            _log.info("made development certificates in {folder}", folder=str(settings.certs))
        # The broker in this process knows the retention, so it can drop journal events early. The
        # worker checks every minute for events that are needed for longer, and writes them again.
        max_age_s = max(settings.retention + settings.patience, SHORTEST_JOURNAL_S)
        self._journal_age_s = min(max_age_s, JOURNAL_MAX_AGE_S)
        self._broker = BrokerService(
            _on_loopback(settings.broker_port), settings.state, max_age_s=max_age_s
        )
        self._broker.option = "--broker-port"
        self._broker.setServiceParent(self)
        self._stub = self._make_stub()
        self._history = make_history(settings.history, settings.history_days)
        if self._history is not None:
            self._history.setServiceParent(self)
        self._policy = make_verified_servers(settings.certs)
        Renewal(self._policy, clock=clock).setServiceParent(self)
        self._identity = server_identity(
            "frontend", certs=settings.certs, client_ca=settings.client_ca
        )
        self._admission, watching = make_admission(
            client_ca=settings.client_ca,
            tokens=settings.tokens,
            role_of=settings.role_of,
            rate=None,
            clock=clock,
        )
        self._keys = key_file(settings.certs, None)
        for each in (
            Renewal(self._identity, clock=clock),
            Renewal(self._keys, clock=clock, what="sealing keys"),
            *watching,
        ):
            each.setServiceParent(self)

    def _make_stub(self) -> Listening | None:
        settings = self._settings
        if settings.equipment_url is not None:
            return None
        identity = server_identity("stub", certs=settings.certs)
        service_a = make_stub(
            delay_s=settings.stub_delay,
            honour_timeout=settings.honour_timeout,
            scenario=settings.scenario,
            clock=clock,
        )
        stub = https(
            "service A (stub)",
            _on_loopback(settings.stub_port),
            service_a.resource(),
            identity,
            clock,
        )
        stub.option = "--stub-port"
        stub.setServiceParent(self)
        Renewal(identity, clock=clock).setServiceParent(self)
        return stub

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        settings, env = self._settings, self._environment()
        self._worker = self._make_worker(env)
        self._worker.setServiceParent(self)
        self._front = front = FrontendService(
            env,
            sealer=self._keys.sealer,
            key_source=self._keys,
            shards=1,
            running_status=settings.running_status,
            spans=self._spans,
        )
        front.setServiceParent(self)
        for role in (self._worker, front):
            role.connection.on_contradiction = self.fail
        self._listening = front_end(
            settings.listen or _on_loopback(settings.port),
            front,
            self._identity,
            clock=clock,
            traffic=self._add_metrics(),
            admission=self._admission,
            proxies=settings.proxy_protocol,
            public_bind_refusal=public_bind_refusal(
                any_client=settings.open, client_ca=settings.client_ca, tokens=settings.tokens
            ),
        )
        self._listening.option = "--listen" if settings.listen else "--port"
        readiness = Readiness(self._probe, clock)
        health = health_if(settings.health_listen, readiness, clock, self.metrics)
        for listening in (*health, self._listening):
            listening.setServiceParent(self)
            listening.privilegedStartService()

    def _add_metrics(self) -> Traffic:
        """Add the metrics of all roles; return the counts of requests to the front end."""
        front, worker, traffic = self._front, self._worker, traffic_of(Frontend.app, clock)
        for source in (
            lambda: frontend_metrics(front),
            lambda: worker_metrics(worker),
            lambda: connection_metrics([front, worker]),
            self._broker.metrics,
            traffic.metrics,
        ):
            self.metrics.add(source)
        return traffic

    def _environment(self) -> Environment:
        port = self._broker.listening.port_number
        url = BrokerUrl(
            host="127.0.0.1",
            port=port,
            username=GUEST,
            password=GUEST,
            virtual_host="/",
            tls=False,
        )
        return environment(TCP4ClientEndpoint(reactor, "127.0.0.1", port), url)

    def _make_worker(self, env: Environment) -> WorkerService:
        settings, equipment_url = self._settings, self._settings.equipment_url
        if equipment_url is None:
            assert self._stub is not None
            equipment_url = f"https://localhost:{self._stub.port_number}"
        worker_settings = WorkerSettings(
            shards=[Shard(0, 1)],
            concurrency=room_for_calls(settings.concurrency, FILES_PER_CALL),
            calls_per_second=settings.max_calls_per_second,
            retention_s=settings.retention,
            patience_s=settings.patience,
            drain_s=settings.drain,
            batch_events=settings.batch_events,
            journal_age_s=self._journal_age_s,
        )
        return make_worker(
            worker_settings,
            self._policy,
            self._keys,
            env,
            equipment_url,
            self._spans,
            self._history,
        )

    def _condition(self) -> Condition:
        if not self.running:
            return Condition(True, f"stopping; calls to A under way: {self._worker.calls}")
        if not (self._front.connection.connected and self._worker.connection.connected):
            return Condition(False, "connecting to the embedded broker")
        return Condition(True, f"listening on {self._listening.address}")

    async def _probe(self) -> None:
        """Raise `NotReady` if the worker or the front end is not ready."""
        for each in (self._worker.readiness, self._front.readiness):
            await Deferred.fromCoroutine(each.check())

    def startService(self) -> None:
        super().startService()
        settings = self._settings
        if not settings.no_gc_tuning:
            freeze_once_connected(self._worker.connection)
        connections = [self._front.connection, self._worker.connection]
        self._listening.open_when(all_connected(connections))
        log_ready(
            connections,
            self._listening,
            certs=settings.certs,
            client_ca=settings.client_ca,
            tokens=settings.tokens,
        )


def makeService(options: Options) -> IService:
    return cast("IService", _Everything(options, Settings.from_options(options)))

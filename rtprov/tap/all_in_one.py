"""``twistd rtprov``: a stub of service A, service B, the worker and the broker in one process."""

from __future__ import annotations

from typing import Any, cast

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.logger import Logger

from rtprov.amqp.client.url import BrokerUrl
from rtprov.frontend.service import FrontendService
from rtprov.http.health import Readiness
from rtprov.messaging.topology import JOURNAL_MAX_AGE_S, Shard
from rtprov.security.development import make_development_set
from rtprov.tap import options as opt
from rtprov.tap.banner import all_connected, first_steps
from rtprov.tap.broker import GUEST, BrokerService
from rtprov.tap.command import Command
from rtprov.tap.frontend import make_admission, public_bind_refusal
from rtprov.tap.identity import key_file, server_identity
from rtprov.tap.listening import Listening, front_end, health_if, https
from rtprov.tap.option_values import server_endpoint
from rtprov.tap.process import clock, environment
from rtprov.tap.reloading import Renewal
from rtprov.tap.stub import make_stub
from rtprov.tap.worker import make_policy, make_worker, room_for_calls

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
        opt.CERTS,
        opt.CLIENT_CA,
        opt.TOKENS,
        opt.ROLE_OF,
        opt.OPEN,
        opt.OTHER_EQUIPMENT_URL,
        opt.CONCURRENCY,
        opt.stub_delay("stub-delay"),
        opt.HONOUR_TIMEOUT,
        opt.SCENARIO,
        opt.RUNNING_STATUS,
        opt.STATE,
        opt.RETENTION,
        opt.PATIENCE,
        opt.DRAIN,
    )

    def check(self) -> None:
        self.exclude("listen", "port")


def _on_loopback(port: int) -> tuple[str, Any]:
    return server_endpoint(f"tcp:{port}:interface=127.0.0.1")


class _Everything(Command):
    """The broker and the stub listen first. The worker and the front end are created once the ports
    of those two are known.
    """

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._options = options
        if make_development_set(options["certs"]):
            _log.info("made development certificates in {folder}", folder=str(options["certs"]))
        # The broker in this process knows the retention, so it can drop journal events early. The
        # worker checks every minute for events that are needed for longer, and writes them again.
        max_age_s = max(options["retention"] + options["patience"], SHORTEST_JOURNAL_S)
        self._journal_age_s = min(max_age_s, JOURNAL_MAX_AGE_S)
        self._broker = BrokerService(
            _on_loopback(options["broker-port"]), options["state"], max_age_s=max_age_s
        )
        self._broker.option = "--broker-port"
        self._broker.setServiceParent(self)
        self._stub = self._make_stub()
        self._policy = make_policy(options)
        Renewal(self._policy, clock=clock).setServiceParent(self)
        self._identity, (self._admission, watching) = (
            server_identity(options, "frontend"),
            make_admission(options),
        )
        self._keys = key_file(options)
        for each in (
            Renewal(self._identity, clock=clock),
            Renewal(self._keys, clock=clock, what="sealing keys"),
            *watching,
        ):
            each.setServiceParent(self)

    def _make_stub(self) -> Listening | None:
        options: dict[str, Any] = self._options
        if options["equipment-url"] is not None:
            return None
        identity = server_identity(options | {"client-ca": None}, "stub")
        stub = https(
            "service A (stub)",
            _on_loopback(options["stub-port"]),
            make_stub(options, "stub-delay").resource(),
            identity,
        )
        stub.option = "--stub-port"
        stub.setServiceParent(self)
        Renewal(identity, clock=clock).setServiceParent(self)
        return stub

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        options: dict[str, Any] = self._options
        port = self._broker.listening.port_number
        url = BrokerUrl(
            host="127.0.0.1",
            port=port,
            username=GUEST,
            password=GUEST,
            virtual_host="/",
            tls=False,
        )
        env = environment(TCP4ClientEndpoint(reactor, "127.0.0.1", port), url)
        equipment_url = options["equipment-url"]
        if self._stub is not None:
            equipment_url = f"https://localhost:{self._stub.port_number}"
        shards, age_s = [Shard(0, 1)], self._journal_age_s
        concurrency = room_for_calls(options["concurrency"], FILES_PER_CALL)
        self._worker = make_worker(
            options,
            self._policy,
            self._keys,
            env,
            equipment_url,
            shards,
            concurrency,
            journal_age_s=age_s,
        )
        self._worker.setServiceParent(self)
        self._front = front = FrontendService(
            env,
            sealer=self._keys.sealer,
            key_source=self._keys,
            shards=1,
            running_status=options["running-status"],
        )
        front.setServiceParent(self)
        for role in (self._worker, front):
            role.connection.on_contradiction = self.fail
        where = options["listen"] or _on_loopback(options["port"])
        self._listening = front_end(
            where,
            front,
            self._identity,
            admission=self._admission,
            public_bind_refusal=public_bind_refusal(options),
        )
        self._listening.option = "--listen" if options["listen"] else "--port"
        for listening in (*health_if(options, Readiness(self._probe, clock)), self._listening):
            listening.setServiceParent(self)
            listening.privilegedStartService()

    async def _probe(self) -> None:
        """Raise `NotReady` if the worker or the front end is not ready."""
        for each in (self._worker.readiness, self._front.readiness):
            await Deferred.fromCoroutine(each.check())

    def startService(self) -> None:
        super().startService()
        connections = [self._front.connection, self._worker.connection]
        self._listening.open_when(all_connected(connections))
        first_steps(connections, self._listening, self._options)


def makeService(options: Options) -> IService:
    return cast("IService", _Everything(options))

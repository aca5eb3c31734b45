"""``twistd rtprov``: everything in one process."""

from __future__ import annotations

from typing import Any, cast

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint

from rtprov.amqp.topology import Shard
from rtprov.amqp.url import BrokerUrl
from rtprov.certs import make_development_set
from rtprov.tap import options as opt
from rtprov.tap.assembly import FrontendService
from rtprov.tap.broker import BrokerService
from rtprov.tap.listening import Listening, front_end, https, log
from rtprov.tap.renewal import Renewal
from rtprov.tap.services import Command, all_connected, first_steps, sealer, server_identity, surroundings
from rtprov.tap.stub import make_stub
from rtprov.tap.timing import clock
from rtprov.tap.worker import make_policy, make_worker

LOOPBACK = "tcp:{}:interface=127.0.0.1"


def _port(name: str, default: str, what: str) -> opt.Option:
    return opt.Option(name, default, f"port of {what} on 127.0.0.1; 0 picks a free one", opt.integer(0, 65535))


class Options(opt.CommandOptions):
    longdesc = "Runs everything in one process: a stub of service A, service B, the worker and the embedded broker."
    command = "rtprov"
    options = (
        _port("port", "8443", "service B"),
        _port("stub-port", "8444", "service A"),
        _port("broker-port", "5673", "the broker"),
        opt.CERTS,
        opt.Option("equipment-url", None, "service A; given, no stub is started", opt.https_url),
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


class _Everything(Command):
    """Broker and stub listen first; worker and front end are made once their ports are known."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        if make_development_set(options["certs"]):
            log.info("made development certificates in {folder}", folder=str(options["certs"]))
        # Here the retention is known to the broker too. A task that has not finished is needed for its patience longer.
        max_age_s = options["retention"] + options["patience"]
        self._broker = BrokerService(opt.server_endpoint(LOOPBACK.format(options["broker-port"])), options["state"], max_age_s=max_age_s)
        self._broker.setServiceParent(self)
        self._stub: Listening | None = None
        if options["equipment-url"] is None:
            resource = make_stub(options, "stub-delay").resource()
            where = opt.server_endpoint(LOOPBACK.format(options["stub-port"]))
            identity = server_identity(options, "stub")
            self._stub = https("service A (stub)", where, resource, identity)
            self._stub.setServiceParent(self)
            Renewal(identity, clock=clock).setServiceParent(self)
        self._policy = make_policy(options)
        Renewal(self._policy, clock=clock).setServiceParent(self)
        self._sealer = sealer(options)
        self._identity = server_identity(options, "frontend")
        Renewal(self._identity, clock=clock).setServiceParent(self)

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        options: dict[str, Any] = self._options
        port = self._broker.listening.port_number
        url = BrokerUrl.parse(f"amqp://guest:guest@127.0.0.1:{port}/")
        around = surroundings(TCP4ClientEndpoint(reactor, "127.0.0.1", port), url)
        equipment_url = options["equipment-url"]
        if self._stub is not None:
            equipment_url = f"https://localhost:{self._stub.port_number}"
        self._worker = make_worker(options, self._policy, around, equipment_url, [Shard(0, 1)])
        self._worker.setServiceParent(self)
        self._front = front = FrontendService(around, sealer=self._sealer, shards=1, running_status=options["running-status"])
        front.setServiceParent(self)
        where = opt.server_endpoint(LOOPBACK.format(options["port"]))
        self._listening = front_end(where, front, self._identity)
        self._listening.setServiceParent(self)
        self._listening.privilegedStartService()

    def startService(self) -> None:
        super().startService()
        connections = [self._front.connection, self._worker.connection]
        self._listening.open_when(all_connected(connections))
        first_steps(connections, self._listening, self._options)


def makeService(options: Options) -> IService:
    return cast("IService", _Everything(options))

"""Upgrades from an earlier version and back, as processes, under load.

The processes of both versions use one another's state: the embedded broker's folder, the queues and
journals of either broker, and one another's messages while both run. Whatever is replaced, and
whether it is stopped or killed, no accepted task is lost or unknown, each ends once, and no
``Idempotency-Key`` gives two tasks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.url import BrokerUrl
from rtprov.messaging.shard_count import message_count
from rtprov.messaging.topology import PARKED_QUEUE, Shard
from rtprov.security.development import make_development_set
from tests.chaos.equipment import RecordingA, reactor
from tests.support.deploy import takes_minutes
from tests.support.earlier_version import ROOT, earlier_version, required_packages
from tests.support.pages import (
    DOCS,
    install_program,
    install_programs,
    run_block,
    shell_blocks,
)
from tests.support.processes import ANY_PORT, ProcessTestCase, Twistd
from tests.support.rabbitmq import rabbitmq
from tests.support.steady_load import SteadyLoad

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = DOCS / "deployment" / "upgrade.md"
CALL_S = 0.5
CONCURRENCY = "5"
OLD, NEW = "old", "new"


class Packages(SynchronousTestCase):
    def test_the_same(self) -> None:
        """The earlier version needs no package that this one does not install; so it can run beside
        it here.
        """
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        earlier = required_packages(earlier_version())
        self.assertEqual(names(earlier) - names(project["dependencies"]), set())


def names(requirements: Sequence[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", each, maxsplit=1)[0] for each in requirements}


class UpgradeTestCase(ProcessTestCase):
    """A, and a client that orders all the time. `killed` and `cut` are for `SteadyLoad.check`."""

    timeout = 900.0  # it takes about a minute on an idle machine

    def setUp(self) -> Any:
        takes_minutes()
        super().setUp()
        self.earlier: Path = earlier_version()
        make_development_set(self.folder / "certs")
        self.a = RecordingA(self.folder / "certs", delay_s=CALL_S)
        self.a.start()
        self.addCleanup(self.a.stop)
        self.load = SteadyLoad(self.a)
        self.addCleanup(self.load.cancel)
        self.names: dict[Twistd, str] = {}
        self.killed: dict[str, float] = {}
        self.cut: list[float] = []

    def run_version(self, version: str, command: str, *arguments: str) -> Twistd:
        """Start a command of the old or the new version."""
        path = {"PYTHONPATH": str(self.earlier)} if version == OLD else {}
        return self.twistd(command, *arguments, environment=path)

    def run_caller(self, version: str, command: str, *arguments: str) -> Twistd:
        """Start a command that calls A."""
        name = f"process{len(self.names)}"
        where = ("--equipment-url", self.a.url_for(name), "--concurrency", CONCURRENCY)
        process = self.run_version(version, command, *where, *arguments)
        self.names[process] = name
        return process

    async def end(self, process: Twistd, signal: str) -> None:
        """Stop a process as an operator does, or kill it."""
        if signal == "TERM":
            await self.stop(process)
            return
        if process in self.names:
            self.killed[self.names[process]] = reactor.seconds()
        process.signal(signal)
        self.assertEqual(await process.ended, -9)
        self.assert_clean(process)

    async def check(self, processes: Sequence[Twistd]) -> None:
        """End the load, check all tasks, and stop the remaining processes."""
        await self.load.end()
        self.load.check(self.killed, self.cut)
        for process in processes:
            await self.stop(process)


class AllInOne(UpgradeTestCase):
    async def test_there_and_back(self) -> None:
        """``twistd rtprov`` on one state folder: the new version continues where the old one was
        stopped or killed, and the old one where the new one was.
        """
        process = await self.start(OLD)
        self.load.start()
        for signal, version in (
            ("KILL", NEW),
            ("TERM", OLD),
            ("TERM", NEW),
            ("KILL", OLD),
        ):
            await self.load.progress()
            await self.end(process, signal)
            process = await self.start(version)
        await self.load.progress()
        await self.check([process])

    async def start(self, version: str) -> Twistd:
        process = self.run_caller(version, "rtprov", "--port", "0", "--broker-port", "0")
        await process.logged("ready; try: curl ")
        self.load.use([self.client(await process.port("service B (front end)"))])
        return process


if TYPE_CHECKING:
    _Base = UpgradeTestCase
else:
    _Base = object


class RollingMixin(_Base):
    """The tests with a process for each role, for either broker."""

    async def start_broker(self) -> str:
        """Start the broker, of the old version if it is rtprov's; return its URL."""
        raise NotImplementedError

    async def change_broker(self, version: str, signal: str) -> None:
        """Replace the broker."""

    async def test_there_and_back(self) -> None:
        """A hot standby and two front ends are upgraded one after the other, and then go back one
        after the other. Both versions are active beside a standby of the other one.
        """
        self.broker_url = await self.start_broker()
        self.workers = [await self.start_worker(OLD), await self.start_worker(OLD)]
        self.frontends = [await self.start_frontend(OLD), await self.start_frontend(OLD)]
        await self.use()
        self.load.start()
        await self.load.progress()
        await self.change_broker(NEW, "KILL")
        await self.load.progress()
        await self.change_workers(NEW)
        await self.change_frontends(NEW)
        await self.change_frontends(OLD)
        await self.change_workers(OLD)
        await self.change_broker(OLD, "TERM")
        await self.load.progress()
        await self.check([*self.frontends, *self.workers])
        await self.assert_nothing_parked()

    async def change_workers(self, version: str) -> None:
        """Replace the workers, as docs/deployment/upgrade.md says. The first is stopped, the second
        is killed.
        """
        for signal in ("TERM", "KILL"):
            self.workers.append(await self.start_worker(version))
            await self.end(self.workers.pop(0), signal)
            await self.load.progress()

    async def change_frontends(self, version: str) -> None:
        for signal in ("TERM", "KILL"):
            self.frontends.append(await self.start_frontend(version))
            leaving = self.frontends.pop(0)
            await self.use()
            await self.end(leaving, signal)
            await self.load.progress()

    async def assert_nothing_parked(self) -> None:
        """Check that neither version has left a letter for the operator, or a message."""
        url = BrokerUrl.parse(self.broker_url)
        connection = AmqpConnection(url=url, clock=reactor)
        await connectProtocol(HostnameEndpoint(reactor, url.host, url.port), connection)
        await connection.handshake()
        shard = Shard(0, 1)
        for queue in (PARKED_QUEUE, shard.dead, shard.work):
            self.assertEqual(await message_count(connection, queue), 0, queue)
        await connection.close()

    async def use(self) -> None:
        ports = [await each.port("service B (front end)") for each in self.frontends]
        self.load.use([self.client(port) for port in ports])

    async def start_worker(self, version: str) -> Twistd:
        worker = self.run_caller(version, "rtprov-worker", "--broker", self.broker_url)
        await worker.logged("worker: connected to amqp://")
        return worker

    async def start_frontend(self, version: str) -> Twistd:
        where = ("--listen", ANY_PORT, "--broker", self.broker_url)
        frontend = self.run_version(version, "rtprov-frontend", *where)
        await frontend.logged("ready; try: curl ")
        return frontend


class OnEmbeddedBroker(RollingMixin, UpgradeTestCase):
    async def start_broker(self) -> str:
        self.broker = self.run_version(OLD, "rtprov-broker", "--listen", ANY_PORT)
        self.port = await self.broker.port("the AMQP broker")
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    async def change_broker(self, version: str, signal: str) -> None:
        self.cut.append(reactor.seconds())
        await self.end(self.broker, signal)
        where = f"tcp:{self.port}:interface=127.0.0.1"
        self.broker = self.run_version(version, "rtprov-broker", "--listen", where)
        await self.broker.port("the AMQP broker")


class OnRabbitMQ(RollingMixin, UpgradeTestCase):
    async def start_broker(self) -> str:
        return await (await rabbitmq()).add_vhost()

    async def test_queues_of_the_new_version(self) -> None:
        """The old version does not connect to queues of letters that the new one has declared. It
        does when they are deleted as the documentation says, and then has all tasks.
        """
        node = await rabbitmq()
        self.broker_url = await node.add_vhost()
        self.workers = [await self.start_worker(NEW)]
        self.frontends = [await self.start_frontend(NEW)]
        await self.use()
        self.load.start()
        await self.load.progress()
        old = self.run_caller(OLD, "rtprov-worker", "--broker", self.broker_url)
        await old.logged("406")
        for process in (*self.workers, *self.frontends):
            await self.stop(process)
        where = {
            "PATH": install_programs(self.folder / "programs"),
            "VHOST": self.broker_url.rpartition("/")[2],
        }
        install_program(
            self.folder / "programs" / "rabbitmqctl", [str(node.program)], node.settings
        )
        (delete,) = shell_blocks(PAGE, "From 0.1.0 to 0.2.0")
        await run_block(self, delete, where)
        await old.logged("worker: connected to amqp://")
        self.frontends = [await self.start_frontend(OLD)]
        await self.use()
        await self.load.progress()
        await self.check([*self.frontends, old])

"""RabbitMQ nodes that tests kill: a single node or a cluster, behind a load balancer.

    nodes = await start_nodes(3)       # raises SkipTest if RabbitMQ is not installed
    nodes.url                          # of the balancer, which connects to a node that is alive
    nodes.kill(0)
    nodes.start(0)                     # then wait for nodes.accepting(0)
    nodes.stop()

A keeper, which is a shell between the test process and the nodes, starts each command that it reads
from its standard input. When that is closed, at the latest with the end of the test process, the
keeper kills everything it has started, and removes their folder.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import FailTest

from tests.support.ports import free_ports
from tests.support.rabbitmq import (
    START_DEADLINE_S,
    _greets,
    _settings,
    find_programs,
    rabbitmqctl,
    shell,
)

reactor = cast("Any", _reactor)

_KEEPER = """
trap '' INT HUP TERM
setsid "$1" -port "$2" -address 127.0.0.1 </dev/null >"$3/epmd.log" 2>&1 &
groups=$!
while read -r start; do
    setsid sh "$start" </dev/null >>"$start.log" 2>&1 &
    groups="$groups $!"
done
for group in $groups; do
    kill -s KILL -- "-$group"
done
wait
rm -rf -- "$3"
"""


@define(eq=False)
class Nodes:
    """Running nodes, numbered from 0."""

    folder: Path
    ports: list[int]
    names: list[str]
    _sbin: Path
    _environments: list[dict[str, str]] = field(repr=False)
    _keeper: subprocess.Popen[bytes] = field(repr=False)
    _balancer: Any = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The balancer's URL, with the virtual host ``/``."""
        return f"amqp://guest:guest@127.0.0.1:{self._balancer.getHost().port}/"

    def start(self, number: int) -> None:
        """Start a node, for the first time or after it was killed."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{self.folder}/{number}/start\n".encode())
        self._keeper.stdin.flush()

    def kill(self, number: int) -> None:
        """Kill a node with ``kill -9``, and nothing else."""
        os.kill(int((self.folder / f"{number}" / "pid").read_text()), signal.SIGKILL)

    async def accepting(self, number: int) -> None:
        """Wait until a node sends an AMQP greeting."""
        deadline = reactor.seconds() + START_DEADLINE_S
        while not await _greets(reactor, self.ports[number]):
            if reactor.seconds() > deadline:
                log = (self.folder / f"{number}" / "start.log").read_text(errors="replace")
                raise FailTest(
                    f"node {number} did not start within {START_DEADLINE_S:g} s:\n{log[-4000:]}"
                )
            await deferLater(reactor, 0.1)

    async def ctl(self, number: int, *arguments: str) -> str:
        """Run ``rabbitmqctl`` on a node."""
        return await rabbitmqctl(self._sbin, self._environments[number], self.folder, *arguments)

    async def stop(self) -> None:
        """Kill all nodes and remove the folder. A second call does nothing."""
        balancer, self._balancer = self._balancer, None
        if balancer is not None:
            await balancer.stopListening()
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(10.0)


async def start_nodes(count: int) -> Nodes:
    """Start nodes that form a cluster, and a balancer for them. Raises `SkipTest`, or `FailTest` if
    RabbitMQ is required.
    """
    server, epmd = find_programs()
    folder = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
    mapper, *free = free_ports(1 + 2 * count)
    ports, distributions = free[:count], free[count:]
    names = [f"rtprov{number}-{uuid.uuid4().hex}@localhost" for number in range(count)]
    environments = [
        _prepare(folder, number, names, ports[number], distributions[number], mapper, server)
        for number in range(count)
    ]
    nodes = Nodes(
        folder,
        ports,
        names,
        server.parent,
        environments,
        shell(_KEEPER, "keeper", epmd, mapper, folder, cwd=folder),
    )
    for number in range(count):
        nodes.start(number)
    try:
        await gatherResults(
            [Deferred.fromCoroutine(nodes.accepting(number)) for number in range(count)],
            consumeErrors=True,
        )
        if count > 1:
            await _joined(nodes)
    except BaseException:
        await nodes.stop()
        raise
    nodes._balancer = reactor.listenTCP(0, _Balancer(ports), interface="127.0.0.1")
    return nodes


def _prepare(
    folder: Path,
    number: int,
    names: list[str],
    port: int,
    distribution: int,
    mapper: int,
    server: Path,
) -> dict[str, str]:
    """Write a node's configuration and the script that starts it; return its environment."""
    own = folder / f"{number}"
    own.mkdir()
    environment = _settings(own, port, distribution, mapper) | {
        "RABBITMQ_NODENAME": names[number],
        "HOME": str(folder),
    }
    if len(names) > 1:
        peers = "".join(
            f"cluster_formation.classic_config.nodes.{place} = {name}\n"
            for place, name in enumerate(names, 1)
        )
        with (own / "rabbitmq.conf").open("a") as file:
            file.write(f"cluster_formation.peer_discovery_backend = classic_config\n{peers}")
    cookie = folder / ".erlang.cookie"
    if not cookie.exists():
        cookie.touch(0o600)
        cookie.write_text(uuid.uuid4().hex)
        cookie.chmod(0o400)
    exports = "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()
    )
    (own / "start").write_text(f"{exports}exec {shlex.quote(str(server))}\n")
    return environment


async def _joined(nodes: Nodes) -> None:
    """Wait until the cluster has all its nodes."""
    deadline = reactor.seconds() + START_DEADLINE_S
    while True:
        status = await nodes.ctl(0, "eval", "length(rabbit_nodes:all_running()).")
        if int(status) == len(nodes.names):
            return
        if reactor.seconds() > deadline:
            raise FailTest(f"only {status.strip()} of the nodes have joined")
        await deferLater(reactor, 0.5)


class _Pipe(Protocol):
    """One side of a connection through the balancer."""

    transport: Any
    other: _Pipe | None = None
    lost = False

    def join(self, other: _Pipe) -> None:
        self.other, other.other = other, self
        for here, there in ((self, other), (other, self)):
            here.transport.registerProducer(there.transport, True)

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        if self.other is not None:
            self.other.transport.unregisterProducer()
            self.other.transport.loseConnection()


class _Client(_Pipe):
    def __init__(self, ports: list[int]) -> None:
        self._ports = ports

    def connectionMade(self) -> None:
        self.transport.pauseProducing()
        Deferred.fromCoroutine(self._find_node())

    async def _find_node(self) -> None:
        for port in self._ports:
            try:
                node = cast(
                    "_Pipe",
                    await TCP4ClientEndpoint(reactor, "127.0.0.1", port, timeout=5).connect(
                        _Pipes()
                    ),
                )
            except ConnectError:
                continue
            if self.lost:
                node.transport.loseConnection()
            else:
                self.join(node)
                self.transport.resumeProducing()
            return
        self.transport.abortConnection()


class _Pipes(Factory):
    noisy = False
    protocol = _Pipe


class _Balancer(Factory):
    """Connects each client to a node that accepts, beginning with the next in turn. If none does,
    the client's connection is closed.
    """

    noisy = False

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports

    def buildProtocol(self, addr: Any) -> Protocol:
        self._ports = self._ports[1:] + self._ports[:1]
        return _Client(self._ports)

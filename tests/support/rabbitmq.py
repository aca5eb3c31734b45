"""A real RabbitMQ for tests: one node for each trial process. It is started when the first test
asks for it, and ends with the process.

    async def test_something(self) -> None:
        node = await rabbitmq()  # raises SkipTest if RabbitMQ is not installed
        url = BrokerUrl.parse(node.url)  # amqp://guest:guest@127.0.0.1:<port>/
        output = await node.ctl("list_queues", "--quiet", "name")

The node has its own name, ports, cookie and files, so that it interferes neither with an installed
broker nor with another test run. Tests share it. They use names of their own (`node.unique`) or a
virtual host of their own (`node.add_vhost`). `node.version` is RabbitMQ's version, such as ``(3,
10, 8)``. Two environment variables configure it:

- ``RTPROV_RABBITMQ``: the folder with the programs ``rabbitmq-server``, ``rabbitmqctl`` and
  ``epmd`` of the RabbitMQ to test with. The default is the installed one. ``.ci/rabbitmq`` prepares
  such a folder for other versions.
- ``RTPROV_REQUIRE_RABBITMQ=1``: if RabbitMQ is missing, the tests fail instead of being skipped.

A shell runs between the test process and the node, and waits for the end of its standard input.
That comes when the test process ends, for whatever reason. The shell then kills the node with all
its child processes, and removes its folder.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import define, field
from pamqp.commands import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore
from twisted.internet.protocol import ClientCreator, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import FailTest, SkipTest

from rtprov.amqp.client.protocol import MAX_BODY_BYTES
from rtprov.amqp.framing import PROTOCOL_HEADER, Assembler, FrameParser
from rtprov.errors import AmqpError
from tests.support.ports import free_ports
from tests.support.scale import QUICK

REQUIRE = "RTPROV_REQUIRE_RABBITMQ"
FOLDER = "RTPROV_RABBITMQ"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 10.0
VHOSTS = 24
ROLES = ("frontend", "worker")
PASSWORD = "secret"
KINDS = ("configure", "write", "read")
ANYTHING = (".*", ".*", ".*")

Definitions = dict[str, list[dict[str, Any]]]  # in RabbitMQ's export format

# The Debian package's own programs. Those in the PATH are wrappers that require the user rabbitmq.
_SERVERS = ("/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/*/sbin", "/opt/rabbitmq/sbin")
_EPMDS = ("/usr/lib/erlang/erts-*/bin", "/usr/local/lib/erlang/erts-*/bin")

_SUPERVISOR = """
trap '' INT HUP TERM
setsid sh -c '"$0" -port "$ERL_EPMD_PORT" -address 127.0.0.1 &
    "$1"; echo "ended with $?" >ended.log' \\
    "$1" "$2" </dev/null >"$3/startup.log" 2>&1 &
node=$!
cat >/dev/null
kill -s KILL -- "-$node"
wait
rm -rf -- "$3"
"""


@define(eq=False)
class RabbitMQ:
    """A running node. `url` is its broker URL with the virtual host ``/``; `port` is its AMQP port
    on 127.0.0.1.

    `version` is empty until the node has sent its first greeting.
    """

    port: int
    folder: Path
    _sbin: Path
    _environment: dict[str, str] = field(repr=False)
    _supervisor: subprocess.Popen[bytes] = field(repr=False)
    version: tuple[int, ...] = ()
    _vhosts: list[str] = field(factory=list, repr=False)

    @property
    def url(self) -> str:
        return self.url_of("/")

    def url_of(self, vhost: str, user: str = "guest", password: str = "guest") -> str:
        """Return the broker URL with this virtual host, for this user."""
        path = "" if vhost == "/" else quote(vhost, safe="")
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{path}"

    def unique(self, word: str = "test") -> str:
        """Return a name that no other test uses."""
        return f"{word}.{uuid.uuid4().hex}"

    @property
    def program(self) -> Path:
        """The path of ``rabbitmqctl``; `settings` is the environment that it needs."""
        return self._sbin / "rabbitmqctl"

    @property
    def settings(self) -> dict[str, str]:
        return dict(self._environment)

    async def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` on the node, which takes about two seconds; return its standard
        output. Raises `FailTest` if it fails.
        """
        return await rabbitmqctl(self._sbin, self._environment, self.folder, *arguments)

    async def define(self, definitions: Definitions) -> None:
        """Create users, virtual hosts and permissions with one call of `ctl`."""
        file = self.folder / f"{self.unique('definitions')}.json"
        file.write_text(json.dumps(definitions))
        await self.ctl("import_definitions", str(file))

    async def add_vhost(self) -> str:
        """Return the broker URL of a virtual host that no other test uses, for guest, who has all
        permissions.

        The node is started with `VHOSTS` of them; when these are used up, it gets as many more.
        """
        if not self._vhosts:
            self._vhosts = vhost_names()
            await self.define(vhost_definitions(self._vhosts))
        return self.url_of(self._vhosts.pop())

    async def add_roles(self) -> tuple[str, str, str]:
        """Return a virtual host as from `add_vhost`, and its broker URLs for a front end and a
        worker with the permissions in the documentation.
        """
        url = await self.add_vhost()
        vhost = url.rpartition("/")[2]
        frontend, worker = (self.url_of(vhost, f"rtprov-{role}", PASSWORD) for role in ROLES)
        return url, frontend, worker

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the node's log."""
        text = "".join(
            path.read_text(errors="replace")
            for path in sorted(self.folder.rglob("*.log"), key=lambda path: path.stat().st_mtime)
        )
        return "\n".join(text.splitlines()[-lines:])

    @property
    def running(self) -> bool:
        return self._supervisor.poll() is None and not (self.folder / "ended.log").exists()

    def kill(self) -> None:
        """Kill the node and remove its folder. A second call does nothing."""
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()
        self._supervisor.wait(STOP_DEADLINE_S)


def documented_permissions(role: str) -> list[str]:
    """Return the user, and the patterns for configure, write and read, that docs/operations.md
    gives to a ``frontend`` or a ``worker``.
    """
    start = f"rabbitmqctl set_permissions -p rtprov rtprov-{role} "
    (line,) = (line for line in OPERATIONS.read_text().splitlines() if line.startswith(start))
    return shlex.split(line)[4:]


def vhost_names() -> list[str]:
    """Return unique names for `VHOSTS` virtual hosts."""
    return [f"vhost.{uuid.uuid4().hex}" for _ in range(VHOSTS)]


def vhost_definitions(names: Sequence[str]) -> Definitions:
    """Return the definitions of these virtual hosts, with the permissions of guest, front end and
    worker in them.
    """
    roles = [documented_permissions(role) for role in ROLES]
    return {
        "users": [user_definition(user) for user, *_ in roles],
        "vhosts": [{"name": name} for name in names],
        "permissions": [
            permission_definition(name, user, patterns)
            for name in names
            for user, *patterns in [["guest", *ANYTHING], *roles]
        ],
    }


def user_definition(name: str, password: str = PASSWORD, tags: str = "") -> dict[str, Any]:
    return {"name": name, "password": password, "tags": tags, "limits": {}}


def permission_definition(vhost: str, user: str, patterns: Sequence[str]) -> dict[str, Any]:
    """Return the definition of one permission. `patterns` are those for configure, write
    and read.
    """
    return {"vhost": vhost, "user": user, **dict(zip(KINDS, patterns, strict=True))}


_node: RabbitMQ | Exception | None = None


async def rabbitmq() -> RabbitMQ:
    """Return the process's RabbitMQ, which the first call starts, when it is ready for AMQP.

    Raises `SkipTest` if RabbitMQ is not installed, or `FailTest` if it is required. Raises
    `FailTest` with the end of the log if it does not start within 60 s; further calls then fail at
    once.
    """
    global _node
    if _node is None:
        try:
            _node = start_rabbitmq()
            await _accepting(_node)
        except Exception as error:
            if isinstance(_node, RabbitMQ):
                _node.kill()
            _node = error
    if isinstance(_node, Exception):
        raise _node
    return _node


def start_rabbitmq() -> RabbitMQ:
    """Begin to start a node. It is killed at the end of the process at the latest. Raises the same
    errors as `rabbitmq`.
    """
    vhosts = vhost_names()
    return start_node(lambda folder, environment: _load_when_started(folder, vhosts), vhosts)


def start_node(
    configure: Callable[[Path, dict[str, str]], object], vhosts: list[str] | None = None
) -> RabbitMQ:
    """Begin to start a node. `configure` may change the files in the node's folder and its
    environment first. Raises the same errors as `rabbitmq`.
    """
    server, epmd = find_programs()
    folder = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
    port, distribution, mapper = free_ports(3)
    environment = _settings(folder, port, distribution, mapper)
    configure(folder, environment)
    supervisor = shell(
        _SUPERVISOR, "supervisor", epmd, server, folder, cwd=folder, environment=environment
    )
    node = RabbitMQ(port, folder, server.parent, environment, supervisor, vhosts=vhosts or [])
    atexit.register(node.kill)
    return node


def _load_when_started(folder: Path, vhosts: Sequence[str]) -> None:
    """Make the node create these virtual hosts when it starts. That takes 50 ms each, while
    ``rabbitmqctl`` takes seconds.
    """
    definitions = vhost_definitions(vhosts)
    definitions["vhosts"].append({"name": "/"})
    definitions["users"].append(user_definition("guest", "guest", "administrator"))
    definitions["permissions"].append(permission_definition("/", "guest", ANYTHING))
    file = folder / "definitions.json"
    file.write_text(json.dumps(definitions))
    with (folder / "rabbitmq.conf").open("a") as configuration:
        configuration.write(f"load_definitions = {file}\n")


def find_programs() -> tuple[Path, Path]:
    """Return the paths of ``rabbitmq-server`` and ``epmd``.

    Raises `SkipTest` if one is missing, and in the quick tests. Raises `FailTest` if they are
    required, or if one is missing in the folder that `FOLDER` names.
    """
    if QUICK:
        raise SkipTest("the quick tests use no RabbitMQ")
    server, epmd = _find("rabbitmq-server", _SERVERS), _find("epmd", _EPMDS)
    if server is None or epmd is None:
        missing = f"no {'rabbitmq-server' if server is None else 'epmd'}"
        if chosen := os.environ.get(FOLDER):
            raise FailTest(f"{FOLDER}={chosen} is no folder of RabbitMQ's programs: {missing}")
        raise (FailTest if os.environ.get(REQUIRE) == "1" else SkipTest)(
            f"RabbitMQ is not installed: {missing}"
        )
    return server, epmd


def shell(
    script: str, *arguments: object, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a script in a session of its own. The first argument is its name. Its standard input is
    closed when this process ends.
    """
    return subprocess.Popen(
        ["sh", "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )


async def rabbitmqctl(
    sbin: Path, environment: dict[str, str], folder: Path, *arguments: str
) -> str:
    """Run ``rabbitmqctl`` in `folder`; return its standard output. Raises `FailTest` if
    it fails.
    """
    output, errors, status = await getProcessOutputAndValue(
        str(sbin / "rabbitmqctl"), arguments, env=environment, path=str(folder)
    )
    if status:
        raise FailTest(
            f"rabbitmqctl {' '.join(arguments)} ended with {status}:"
            f" {(errors or output).decode(errors='replace')}"
        )
    return bytes(output).decode()


def _find(program: str, folders: tuple[str, ...]) -> Path | None:
    if chosen := os.environ.get(FOLDER):
        found = Path(chosen, program).absolute()
        return found if os.access(found, os.X_OK) else None
    for folder in folders:
        for found in sorted(Path("/").glob(f"{folder[1:]}/{program}")):
            if os.access(found, os.X_OK):
                return found
    found_in_path = shutil.which(program)
    return None if found_in_path is None else Path(found_in_path)


def _settings(folder: Path, port: int, distribution: int, mapper: int) -> dict[str, str]:
    """Write the node's configuration; return its environment, in which all paths are inside
    `folder`.
    """
    (folder / "enabled_plugins").write_text("[].\n")
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\ndisk_free_limit.absolute = 1MB\n"
    )
    name = f"rtprov-{uuid.uuid4().hex}@localhost"
    return {
        "PATH": f"{os.environ.get('PATH', '')}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CTL_DIST_PORT_MIN": "0",
        "RABBITMQ_CTL_DIST_PORT_MAX": "0",
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced"),
    }


class _Greeting(Protocol):
    """Sends the AMQP protocol header. Fires with the server properties of the greeting, or with
    None.
    """

    def __init__(self, answered: Deferred[dict[str, Any] | None]) -> None:
        self.answered = answered
        self._parser = FrameParser()
        self._properties: dict[str, Any] | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(PROTOCOL_HEADER)

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        try:
            for frame in self._parser.feed(data):
                command = Assembler(0, MAX_BODY_BYTES).feed(frame)
                if command is not None and isinstance(command.method, Connection.Start):
                    self._properties = dict(command.method.server_properties)
                    self.transport.loseConnection()
        except AmqpError:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.answered.callback(self._properties)


async def _accepting(node: RabbitMQ) -> None:
    """Wait until the node sends an AMQP greeting. Raises `FailTest`."""
    from twisted.internet import reactor

    deadline = reactor.seconds() + START_DEADLINE_S
    while not (version := await _greets(reactor, node.port)):
        if not node.running or reactor.seconds() > deadline:
            raise FailTest(
                f"RabbitMQ did not start within {START_DEADLINE_S:g} s; its log ends"
                f" with\n{node.log_tail()}"
            )
        await deferLater(reactor, 0.1)
    node.version = version


async def _greets(reactor: IReactorCore, port: int) -> tuple[int, ...]:
    """Return the version of the RabbitMQ that listens there; empty if there is no greeting."""
    answered: Deferred[dict[str, Any] | None] = Deferred()
    try:
        await ClientCreator(reactor, _Greeting, answered).connectTCP("127.0.0.1", port, timeout=5)
    except Exception:
        return ()
    properties = await answered
    return (
        ()
        if properties is None
        else tuple(int(part) for part in re.findall(r"\d+", str(properties["version"])))
    )

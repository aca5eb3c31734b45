"""RabbitMQ with the configuration in ``deploy/rabbitmq``: processes log in by certificate."""

from __future__ import annotations

import json
import re
import shutil
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import ClientCreator, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import FailTest, SynchronousTestCase

from rtprov.security.development import make_development_set
from tests.support.certificates import CLIENT, Authority, dns
from tests.support.deploy import DEPLOY
from tests.support.processes import ANY_PORT, POLL_EVERY_S, Client, ProcessTestCase, Twistd, reactor
from tests.support.rabbitmq import KINDS, ROLES, RabbitMQ, documented_permissions, start_node
from tests.support.scale import FULL
from tests.support.separate_roles import COMPLETED, RolesMixin, RolesStarter
from tests.support.system import REQUEST

FILES = DEPLOY / "rabbitmq"
LED = ("rtprov.work.", "rtprov.journal.")
ALONE = re.compile(r"cluster_formation\..*\n")  # what a node without others does not have


class Definitions(SynchronousTestCase):
    def setUp(self) -> None:
        self.definitions = json.loads((FILES / "definitions.json").read_text())

    def test_permissions(self) -> None:
        """The users are those of docs/operations.md, with exactly these permissions, and without
        passwords.
        """
        for role, user, permission in zip(
            ROLES, self.definitions["users"], self.definitions["permissions"], strict=True
        ):
            name, *patterns = documented_permissions(role)
            self.assertEqual(user, {"name": name, "password_hash": "", "tags": ""})
            self.assertEqual(
                permission,
                {"vhost": "rtprov", "user": name, **dict(zip(KINDS, patterns, strict=True))},
            )

    def test_policies(self) -> None:
        """No policy limits the age, the size or the deliveries of a queue: queues declare that."""
        (policy,) = self.definitions["policies"]
        self.assertEqual(policy["definition"], {"queue-leader-locator": "balanced"})


def configured(folder: Path, environment: dict[str, str], names: Sequence[str]) -> None:
    """Make a node use the files in ``deploy/rabbitmq``, with its own paths and port. `names` are
    the nodes of its cluster, if it has others.
    """
    port = environment.pop("RABBITMQ_NODE_PORT")
    del environment["RABBITMQ_NODE_IP_ADDRESS"]
    text = (FILES / "rabbitmq.conf").read_text()
    for old, new in (
        ("/etc/rabbitmq/definitions.json", str(folder / "definitions.json")),
        ("/etc/rabbitmq/tls", str(folder)),
        ("listeners.ssl.default = 5671", f"listeners.ssl.1 = 127.0.0.1:{port}"),
        ("disk_free_limit.absolute = 5GB", "disk_free_limit.absolute = 1MB"),
        *((f"rabbit@rabbit{number}", name) for number, name in enumerate(names, 1)),
    ):
        assert old in text, old
        text = text.replace(old, new)
    (folder / "rabbitmq.conf").write_text(text if names else ALONE.sub("", text))
    for name in ("enabled_plugins", "definitions.json"):
        shutil.copy(FILES / name, folder)
    authority.issue(dns("localhost"), usage=None).write(folder, "node")
    (folder / "ca.pem").write_bytes(authority.pem)


def certificate_of(user: str) -> dict[str, str]:
    """Return the variables that make a process log in as this user."""
    return {
        "RTPROV_AMQP_CERTIFICATE": f"{user}.pem",
        "RTPROV_AMQP_PRIVATE_KEY": f"{user}.key",
    }


authority = Authority()
_node: RabbitMQ | None = None


async def configured_node() -> RabbitMQ:
    """Return the node of this process, once it listens. Raises the errors of `start_node`."""
    global _node
    if _node is None:
        _node = start_node(lambda folder, environment: configured(folder, environment, ()))
    await listening(_node)
    return _node


async def listening(node: RabbitMQ) -> None:
    """Wait until a node listens, at the end of its start."""
    while True:
        try:
            connected = await ClientCreator(reactor, Protocol).connectTCP("127.0.0.1", node.port)
        except ConnectionRefusedError:
            if not node.running:
                raise FailTest(f"RabbitMQ ended: {node.log_tail()}") from None
            await deferLater(reactor, POLL_EVERY_S)
            continue
        connected.transport.abortConnection()
        return


class CertificateTestCase(ProcessTestCase):
    """A test whose processes log in by certificate."""

    timeout = 300.0

    def issue_certificates(self) -> None:
        """Write certificates for the users, and the CAs that a process trusts: the broker's, and
        that of the development set.
        """
        for name in ("rtprov-frontend", "rtprov-worker", "rtprov-stranger"):
            identity = authority.issue([], common_names=[name], usage=CLIENT)
            identity.write(self.folder, name)
        ours = (self.folder / "certs" / "ca.pem").read_bytes()
        (self.folder / "trusted.pem").write_bytes(ours + authority.pem)

    def twistd(
        self,
        command: str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        pidfile: str = "",
    ) -> Twistd:
        """Start a command with the certificate of its user."""
        files = {**certificate_of(command), "RTPROV_CA": "trusted.pem"}
        environment = (files if command != "rtprov-stub" else {}) | (environment or {})
        return super().twistd(command, *arguments, environment=environment, pidfile=pidfile)


class ByCertificate(RolesMixin, CertificateTestCase):
    """One node with this configuration, and users without passwords. Each test has a virtual host
    of its own, with the permissions and the policy of the one in the file.
    """

    async def start_broker(self) -> tuple[str, str]:
        self.issue_certificates()
        node = await configured_node()
        name = node.unique("rtprov")
        text = (FILES / "definitions.json").read_text().replace('"rtprov"', f'"{name}"')
        await node.define(json.loads(text))
        self.url = f"amqps://localhost:{node.port}/{name}"
        return self.url, self.url

    async def test_strangers(self) -> None:
        """A certificate without a user is refused, as is a log-in by password."""
        make_development_set(self.folder / "certs")
        url, _ = await self.start_broker()
        for user, broker, reason in (
            ("rtprov-stranger", url, "403 ACCESS_REFUSED"),
            (
                "rtprov-worker",
                url.replace("//", "//rtprov-worker:secret@"),
                "offers the mechanisms 'EXTERNAL', not PLAIN",
            ),
        ):
            process = self.twistd(
                "rtprov-frontend",
                "--listen",
                ANY_PORT,
                environment={**certificate_of(user), "RTPROV_BROKER": broker},
            )
            await process.logged(f"frontend: not connected to amqps://.*{reason}")
            await self.stop(process)

    async def test_shards(self) -> None:
        """The number of shards is changed with the worker's certificate."""
        await self.start(delay_s=0)
        worker = await self.start_worker()
        client = await self.front_end()
        task = await client.accepted("ABC123456")
        self.assertEqual((await client.final(task)).json, COMPLETED)
        await self.stop(worker)
        change = self.spawn(
            [sys.executable, "-m", "rtprov.shards", "3", "--ca", "trusted.pem"],
            {"RTPROV_BROKER": self.url, **certificate_of("rtprov-worker")},
        )
        self.assertEqual(await change.ended, 0, change.errors)
        await self.start_worker()
        self.assertEqual((await client.final(task)).json, COMPLETED)


class Cluster(RolesStarter, CertificateTestCase):
    """Three nodes with this configuration."""

    timeout = 600.0

    if not FULL:
        skip = "starts three nodes; .ci/full runs it"

    async def start_broker(self) -> tuple[str, str]:
        self.issue_certificates()
        names = [f"rtprov-{uuid.uuid4().hex}@localhost" for _ in range(3)]
        shared: dict[str, str] = {}  # one port mapper for all

        def configure(folder: Path, environment: dict[str, str]) -> None:
            configured(folder, environment, names)
            shared.setdefault("ERL_EPMD_PORT", environment["ERL_EPMD_PORT"])
            environment |= {**shared, "RABBITMQ_NODENAME": names[len(self.nodes)]}
            cookie = folder / ".erlang.cookie"
            cookie.write_text(names[0])
            cookie.chmod(0o400)

        self.nodes: list[RabbitMQ] = []
        for _ in names:
            self.nodes.append(start_node(configure))
            self.addCleanup(self.nodes[-1].kill)
        for node in self.nodes:
            await listening(node)
        first, second = (f"amqps://localhost:{node.port}/rtprov" for node in self.nodes[:2])
        return first, second

    def twistd(
        self,
        command: str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        pidfile: str = "",
    ) -> Twistd:
        environment = {"RTPROV_SHARDS": "4", **(environment or {})}
        return super().twistd(command, *arguments, environment=environment, pidfile=pidfile)

    async def queues(self) -> dict[str, dict[str, Any]]:
        """Return leader and members of each queue, by name."""
        columns = ("name", "leader", "members")
        output = await self.nodes[0].ctl(
            "list_queues", "--quiet", "-p", "rtprov", "--formatter", "json", *columns
        )
        return {each["name"]: each for each in json.loads(output)}

    async def test_lost_node(self) -> None:
        """Queues have a member on each node and their leaders on several. When a node is lost, a
        POST may be a 503 until other leaders are elected. Its repetition is accepted, and each task
        is completed.
        """
        await self.start(delay_s=1)
        worker = await self.start_worker()
        client = await self.front_end()
        running = await client.accepted("ABC123456")
        queues = await self.queues()
        ours = [each for name, each in queues.items() if name.startswith(LED)]
        self.assertEqual(len(ours), 8)
        self.assertEqual({len(each["members"]) for each in ours}, {3})
        self.assertGreater(len({each["leader"] for each in ours}), 1)
        self.nodes[2].kill()
        tasks = [running]
        for number in range(8):
            tasks.append(await self.accepted_at_last(client, f"DEVICE{number:04}"))
        for task in tasks:
            self.assertEqual((await client.final(task)).json, COMPLETED)
        for process in (worker, self.frontend, self.stub):
            await self.stop(process)

    async def accepted_at_last(self, client: Client, equipment_id: str) -> str:
        """POST a task, and repeat it as long as the answer is a 503; return its status's path."""
        path = f"/api/v1/equipment/cpe/{equipment_id}"
        while True:
            answer = await client.request("POST", path, REQUEST, Idempotency_Key=equipment_id)
            if answer.status != 503:
                self.assertEqual(answer.status, 200, answer)
                return f"{path}/task/{answer.json['taskId']}"
            await deferLater(reactor, float(answer.header("Retry-After") or 1))

"""The RabbitMQ permissions that docs/operations.md gives a front end and a worker: if one is
missing, its name is logged once.

`tests.processes.test_separate_processes` shows that they are sufficient: its users have exactly
these permissions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client.permissions import MayPublish, missing_permission
from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.rpc import RpcClient
from rtprov.amqp.client.service import BrokerConnection, Session
from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import AmqpError, BrokerError
from rtprov.frontend.service import PUBLISHED_TO_BY_FRONTEND
from rtprov.messaging.topology import Shard, Topology, declare_inquiry, declare_status
from rtprov.worker.service import PUBLISHED_TO_BY_WORKER
from tests.support.broker_cases import BrokerContract, RabbitMQTestCase
from tests.support.rabbitmq import (
    KINDS,
    PASSWORD,
    documented_permissions,
    permission_definition,
    user_definition,
)

NOTHING = "^$"
SHARD = Shard(0, 1)
TRIES = 3

Warnings = dict[str, list[str]]  # by name of the process


class _Tries:
    """A session that counts attempts to connect."""

    def __init__(self) -> None:
        self.count = 0
        self.enough: Deferred[None] = Deferred()

    async def attach(self, connection: AmqpConnection) -> None:
        self.count += 1
        if self.count == TRIES:
            self.enough.callback(None)

    def detach(self) -> None: ...


class _Serving:
    """Declares a worker's own queues."""

    async def attach(self, connection: AmqpConnection) -> None:
        channel = await connection.open_channel()
        await declare_status(channel, SHARD)
        await declare_inquiry(channel, SHARD)

    def detach(self) -> None: ...


class RabbitMQPermissions(RabbitMQTestCase, BrokerContract):
    async def setUp(self) -> None:  # type: ignore[override] # trial awaits it
        """Declare all queues and exchanges first, so that only the permission to use them can be
        missing.
        """
        await super().setUp()
        self.url = BrokerUrl.parse(await self.node.add_vhost())
        self.users: dict[str, str] = {}
        await Topology([SHARD]).attach(await self.connect())

    async def add_users(self, permissions: Mapping[str, Sequence[str]]) -> None:
        """Make a user for each name, with these permissions."""
        self.users = {name: self.node.unique("user") for name in permissions}
        await self.node.define(
            {
                "users": [user_definition(user) for user in self.users.values()],
                "permissions": [
                    permission_definition(self.url.virtual_host, self.users[name], patterns)
                    for name, patterns in permissions.items()
                ],
            }
        )

    async def refusals(self, sessions: Mapping[str, Callable[[], Sequence[Session]]]) -> Warnings:
        """Return the warnings of a process of each of these users, with these sessions, in its
        first attempts to connect. On a busy machine a handshake may take too long; that is left
        out.
        """
        with capturedLogs() as events:
            await gatherResults(
                [
                    Deferred.fromCoroutine(self.try_to_connect(name, make()))
                    for name, make in sessions.items()
                ],
                consumeErrors=True,
            )
        return {
            name: [
                str(event["text"])
                for event in events
                if event["log_level"] is LogLevel.warn and "text" in event and event["name"] == name
                if "did not finish the handshake" not in event["text"]
            ]
            for name in sessions
        }

    async def try_to_connect(self, name: str, sessions: Sequence[Session]) -> None:
        tries = _Tries()
        url = self.node.url_of(self.url.virtual_host, self.users[name], PASSWORD)
        connection = BrokerConnection(
            name=name,
            endpoint=self.endpoint(),
            url=BrokerUrl.parse(url),
            clock=self.clock,
            rng=random.Random(1),
            sessions=[tries, *sessions],
        )
        connection.startService()
        await tries.enough
        await connection.stopService()
        self.assertFalse(connection.connected)

    def frontend(self) -> Sequence[Session]:
        publisher = Publisher(clock=self.clock)
        return [
            Topology([SHARD]),
            publisher,
            MayPublish(publisher, PUBLISHED_TO_BY_FRONTEND),
            RpcClient(clock=self.clock),
        ]

    def worker(self) -> Sequence[Session]:
        publisher = Publisher(clock=self.clock)
        return [
            Topology([SHARD], replaces=True),
            publisher,
            MayPublish(publisher, PUBLISHED_TO_BY_WORKER),
            _Serving(),
        ]

    async def test_each_kind(self) -> None:
        """Without one kind of permission a process never counts as connected, and logs once which
        permission it needs.
        """
        permissions, processes = {}, {}
        for role, sessions in (("frontend", self.frontend), ("worker", self.worker)):
            _, *patterns = documented_permissions(role)
            for kind in KINDS:
                name = f"{role} without {kind}"
                processes[name] = sessions
                permissions[name] = [
                    NOTHING if each == kind else pattern
                    for each, pattern in zip(KINDS, patterns, strict=True)
                ]
        await self.add_users(permissions)
        for name, warnings in (await self.refusals(processes)).items():
            self.assertEqual(len(warnings), 1, warnings)
            kind = name.rpartition(" ")[2]
            self.assertIn(kind, warnings[0].partition("the user needs the")[2], warnings)

    async def test_each_exchange(self) -> None:
        """An exchange without write permission is named when the process connects, not at the first
        task.
        """
        permissions, processes, missing = {}, {}, {}
        for role, sessions, gap, name in (
            ("frontend", self.frontend, "(?!rtprov\\.status$)", "rtprov.status"),
            ("worker", self.worker, "(?!amq\\.default$)", "amq.default"),
        ):
            _, configure, _, read = documented_permissions(role)
            permissions[role] = [configure, f"^{gap}.*", read]
            processes[role], missing[role] = sessions, name
        await self.add_users(permissions)
        for role, warnings in (await self.refusals(processes)).items():
            (warning,) = warnings
            self.assertIn(f"access to exchange '{missing[role]}'", warning)
            self.assertIn("the user needs the write permission", warning)


class MissingPermissionTests(SynchronousTestCase):
    def test_hints(self) -> None:
        """RabbitMQ 4 names the permission. For version 3 it follows from the method. Other refusals
        are not about a permission.
        """
        refused = "access to queue 'q' in vhost '/' refused for user 'u'"
        for text, method, needed in (
            (f"ACCESS_REFUSED - write {refused}", (50, 10), "write"),
            (f"ACCESS_REFUSED - {refused}", (50, 20), "write"),
            (f"ACCESS_REFUSED - {refused}", (60, 20), "read"),
            (f"ACCESS_REFUSED - {refused}", (50, 10), "configure"),
            (f"ACCESS_REFUSED - {refused.replace('queue', 'exchange')}", (50, 10), "write"),
            (f"ACCESS_REFUSED - {refused.replace('queue', 'exchange')}", (50, 20), "read"),
        ):
            self.assertIn(
                f"needs the {needed}", str(missing_permission(AmqpError(403, text, *method)))
            )
        for error in (
            AmqpError(403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", 60, 20),
            AmqpError(403, f"ACCESS_REFUSED - {refused}", 99, 99),
            AmqpError(404, "NOT_FOUND", 60, 20),
            BrokerError("other"),
            None,
        ):
            self.assertIsNone(missing_permission(error))

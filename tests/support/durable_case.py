"""A test case with a broker that stops or crashes and starts again with the same state."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pamqp.commands import Basic
from twisted.internet.defer import Deferred

from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.storage.interface import Storage
from rtprov.broker.storage.sqlite import SqliteStorage
from tests.support.broker_cases import BrokerContract, SqliteTestCase

PERSISTENT = 2


class DurableCase(SqliteTestCase, BrokerContract):
    """A broker that can crash and restart, and whose disk can be blocked."""

    def setUp(self) -> None:
        self.stopped: list[tuple[Deferred[Any], Callable[[], Any]]] | None = None
        super().setUp()

    def make_storage(self) -> Storage:
        self.directory = Path(self.mktemp())
        super().make_storage().close()  # for its patches
        return self.open_storage()

    def open_storage(self) -> SqliteStorage:
        return SqliteStorage(directory=self.directory, run=self.in_next_turn, clock=self.clock)

    def in_next_turn(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if self.stopped is None:
            return super().in_next_turn(function, *arguments)
        call: Deferred[Any] = Deferred()
        self.stopped.append((call, lambda: function(*arguments)))
        return call

    def stop_disk(self) -> None:
        """Block the disk: nothing is written from now on."""
        self.stopped = []

    def start_disk(self) -> None:
        stopped, self.stopped = self.stopped or [], None
        for call, function in stopped:
            call.callback(function())

    async def crash(self) -> None:
        """Crash the broker as ``kill -9`` does, and restart it on a copy of its files as they are
        now.
        """
        left, self.stopped = self.directory, None
        self.directory = Path(self.mktemp())
        shutil.copytree(left, self.directory)
        self.addCleanup(self.broker.virtual_host.storage.close)
        self.come_back()
        self.network.cut("broker")

    async def restart(self) -> None:
        """Stop the broker, and start it again."""
        await self.broker.stop()
        await self.broker.virtual_host.storage.close()
        self.come_back()

    def come_back(self) -> None:
        self.broker = make_broker(clock=self.clock, storage=self.open_storage())
        self.network.listen("broker").listen(BrokerFactory(self.broker))
        self.connections.clear()
        self.__dict__.pop("_publisher", None)

    def sql(self, statement: str) -> list[Any]:
        storage = self.broker.virtual_host.storage
        assert isinstance(storage, SqliteStorage)
        return storage._database._connection.execute(statement).fetchall()

    def properties(self) -> Basic.Properties:
        return Basic.Properties(delivery_mode=PERSISTENT)

    async def drained(self, queue: str, count: int) -> list[tuple[bytes, bool]]:
        """Return the next deliveries of a queue with their redelivered flags. All are
        acknowledged.
        """
        inbox = await self.inbox(await self.channel(), queue, prefetch=1)
        found = []
        for _ in range(count):
            delivery = await inbox.next()
            found.append((delivery.body, delivery.redelivered))
            delivery.ack()
        return found

"""The embedded broker, in its own process, is killed repeatedly while clients publish to it."""

from __future__ import annotations

import contextlib
from typing import Any

from pamqp.commands import Basic
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory

from rtprov.amqp.client.channel import AmqpChannel
from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import BrokerError
from tests.support.processes import ANY_PORT, ProcessTestCase, Twistd, reactor

ROUNDS = 4
UNDER_WAY = 50
PERSISTENT = Basic.Properties(delivery_mode=2)


class KilledBroker(ProcessTestCase):
    async def start(self) -> tuple[Twistd, BrokerUrl]:
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        port = await broker.port("the AMQP broker")
        return broker, BrokerUrl.parse(f"amqp://guest:guest@127.0.0.1:{port}/")

    async def connect(self, url: BrokerUrl) -> AmqpConnection:
        connection = AmqpConnection(url=url, clock=reactor)
        await TCP4ClientEndpoint(reactor, url.host, url.port).connect(
            Factory.forProtocol(lambda: connection)
        )
        await connection.handshake()
        return connection

    async def publish_until_the_end(
        self, connection: AmqpConnection, confirmed: list[int], number: int
    ) -> None:
        """Publish until the broker is gone. The bodies are numbers, with a step of the number of
        publishers.
        """
        publisher = Publisher(clock=reactor)
        await publisher.attach(connection)
        with contextlib.suppress(BrokerError):
            while True:
                await publisher.publish("", "work", b"%d" % number, properties=PERSISTENT)
                confirmed.append(number)
                number += UNDER_WAY

    async def get_all(self, channel: AmqpChannel) -> list[int]:
        found: list[int] = []
        while True:
            answer: Any = await channel.basic_get(queue="work", no_ack=True)
            if answer.method.name == "get-empty":
                return found
            found.append(int(answer.content.body))

    async def test_confirmed_messages_survive(self) -> None:
        """After each kill -9 the broker starts again with every message that it had confirmed, each
        publisher's in order.
        """
        confirmed: list[int] = []
        for turn in range(ROUNDS):
            broker, url = await self.start()
            connection = await self.connect(url)
            channel = await connection.open_channel()
            await channel.queue_declare(
                queue="work", durable=True, arguments={"x-queue-type": "quorum"}
            )
            first = turn * 1_000_000
            publishing = [
                Deferred.fromCoroutine(
                    self.publish_until_the_end(connection, confirmed, first + number)
                )
                for number in range(UNDER_WAY)
            ]
            while len(confirmed) < (turn + 1) * 1000:
                await channel.queue_declare(queue="work", passive=True)
            broker.signal("KILL")
            self.assertEqual(await broker.ended, -9)
            await gatherResults(publishing)
        broker, url = await self.start()
        connection = await self.connect(url)
        found = await self.get_all(await connection.open_channel())
        await connection.close()
        self.assertEqual(sorted(set(confirmed) - set(found)), [])
        self.assertEqual(len(found), len(set(found)))
        for publisher in range(UNDER_WAY):
            own = [number for number in found if number % UNDER_WAY == publisher]
            self.assertEqual(own, sorted(own))
        await self.stop(broker)

    async def test_one_broker_for_one_state(self) -> None:
        """A second broker with the same state folder is refused with one line, and the first one
        continues.
        """
        broker, url = await self.start()
        second = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        self.assertEqual(await second.ended, 1)
        self.assertRegex(
            second.errors,
            r"\Artprov-broker: .*/state: another broker is running on this state; .*\n\Z",
        )
        await (await self.connect(url)).close()
        await self.stop(broker)

    async def test_damaged_state(self) -> None:
        """A file that is not one of our databases is refused with one line, and not changed."""
        state = self.folder / "state"
        state.mkdir()
        (state / "broker.sqlite3").write_bytes(b"precious" * 1000)
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        self.assertEqual(await broker.ended, 78)
        self.assertRegex(
            broker.errors,
            r"\Artprov-broker: .*/broker.sqlite3: is not a database of rtprov's broker; nothing was"
            r" changed\n\Z",
        )
        self.assertEqual((state / "broker.sqlite3").read_bytes(), b"precious" * 1000)

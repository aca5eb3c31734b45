"""What the embedded broker makes of a storage that it finds filled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pamqp.commands import Basic

from rtprov.amqp.framing import encode_header
from rtprov.broker.messages import Message
from rtprov.broker.server import make_broker
from rtprov.broker.storage import MemoryStorage, StoredQueue
from tests.broker.cases import EPOCH, BrokerContract, EmbeddedTestCase


def message(body: bytes, expiration: str | None = None) -> Message:
    properties = Basic.Properties(delivery_mode=2, expiration=expiration)
    return Message("", "q", properties, encode_header(properties, len(body)), body)


class FilledStorage(MemoryStorage):
    """A queue of three messages, the second of which expires 60 s after its publish, and the queue of its dead letters."""

    def recover(self) -> tuple[Mapping[str, str], Iterable[StoredQueue]]:
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
        messages = ((3, EPOCH - 50, message(b"1")), (5, EPOCH - 50, message(b"2", "60000")), (9, EPOCH - 50, message(b"3")))
        return {}, (StoredQueue("dead", {}, (), ()), StoredQueue("q", arguments, (), messages))


class RecoveryTests(EmbeddedTestCase, BrokerContract):
    def setUp(self) -> None:
        super().setUp()
        self.network.factories.clear()
        self.broker = make_broker(clock=self.clock, storage=FilledStorage())
        self.network.listen("broker").listen(self.broker)

    async def test_order(self) -> None:
        """Stored messages are handed out in their order, as redelivered, and new ones come after them."""
        await self.publish("q", b"4")
        inbox = await self.inbox(await self.channel(), "q")
        deliveries = [await inbox.next() for _ in range(4)]
        self.assertEqual([delivery.body for delivery in deliveries], [b"1", b"2", b"3", b"4"])
        self.assertEqual([delivery.redelivered for delivery in deliveries], [True, True, True, False])

    async def test_expiration(self) -> None:
        """A stored message expires when it would have, at the head of its queue, with no client there."""
        channel = await self.channel()
        self.assertEqual(await self.get_body(channel, "q"), b"1")
        await self.close_connections()
        self.assertEqual(self.broker.engine.next_expiration, EPOCH + 10)
        channel = await self.channel()
        letters = await self.inbox(channel, "dead")
        self.assertEqual(await letters.bodies(1), [b"2"])
        self.assertEqual(self.clock.seconds(), EPOCH + 10)
        self.assertEqual(await self.get_body(channel, "q"), b"3")

    def test_expires_from_the_start(self) -> None:
        """What stands expiring at the head when the broker starts expires before any client has come."""

        class Expiring(MemoryStorage):
            def recover(self) -> tuple[Mapping[str, str], Iterable[StoredQueue]]:
                return {}, (StoredQueue("q", {}, (), ((1, EPOCH, message(b"1", "5000")),)),)

        broker = make_broker(clock=self.clock, storage=Expiring())
        self.network.listen("other").listen(broker)
        queue = broker.engine.queues["q"]
        self.network.advance(4.9)
        self.assertEqual(queue.message_count, 1)
        self.network.advance(0.2)
        self.assertEqual(queue.message_count, 0)
        broker.stop()

"""Names that AMQP 0-9-1 does not allow (§1.1, exchange-name and queue-name), but RabbitMQ
accepts.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from pamqp import base
from pamqp.commands import Basic, Channel, Exchange, Queue

from rtprov.amqp.codec import encode_header
from tests.support.broker_cases import EmbeddedTestCase, RabbitMQTestCase
from tests.support.raw_amqp import RawContract

M = TypeVar("M", bound=base.Frame)


def loose(kind: type[M], **arguments: Any) -> M:
    """Return a method with names that pamqp would refuse."""
    free = type(kind.__name__, (kind,), {"validate": lambda self: None})
    return cast("M", free(**arguments))


def frame(kind: int, payload: bytes) -> bytes:
    return bytes([kind]) + b"\0\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce"


def publish(exchange: str, key: str) -> bytes:
    method = loose(Basic.Publish, exchange=exchange, routing_key=key, mandatory=True)
    start = frame(1, method.index.to_bytes(4, "big") + method.marshal())
    return start + frame(2, encode_header(Basic.Properties(), 4)) + frame(3, b"body")


class NamesContract(RawContract):
    async def test_any_name(self) -> None:
        """Names may be longer and have other characters than AMQP 0-9-1 allows: they can be
        declared, and messages pass through them.
        """
        client = await self.raw_open()
        client.say(Channel.Open(), channel=1)
        await client.hear(Channel.OpenOk)
        for name in (self.name("é (1) |"), self.name("a" * 200)):
            client.say(
                loose(Exchange.Declare, exchange=name, exchange_type="direct", auto_delete=True),
                loose(Queue.Declare, queue=name, exclusive=True),
                loose(Queue.Bind, queue=name, exchange=name, routing_key=name),
                publish(name, "nowhere"),
                channel=1,
            )
            await client.hear(Exchange.DeclareOk)
            self.assertEqual((await client.hear(Queue.DeclareOk)).queue, name)
            await client.hear(Queue.BindOk)
            self.assertEqual((await client.hear(Basic.Return)).exchange, name)
            client.say(
                publish(name, name),
                publish(name, name),
                loose(Basic.Get, queue=name, no_ack=True),
                channel=1,
            )
            self.assertEqual((await client.hear(Basic.GetOk)).exchange, name)
            client.say(loose(Basic.Consume, queue=name, no_ack=True), channel=1)
            await client.hear(Basic.ConsumeOk)
            self.assertEqual((await client.hear(Basic.Deliver)).exchange, name)
        client.end()


class EmbeddedNames(EmbeddedTestCase, NamesContract):
    pass


class RabbitMQNames(RabbitMQTestCase, NamesContract):
    pass

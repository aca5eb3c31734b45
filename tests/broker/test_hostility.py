"""What a client may do to the embedded broker: nonsense, floods and silence end in the proper error, and others are served meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pamqp import base
from pamqp.commands import INDEX_MAPPING, Basic, Channel, Confirm, Connection, Exchange, Queue
from pamqp.common import FieldTable

from rtprov.amqp._txamqp import Content
from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import PROTOCOL_HEADER, encode_content, encode_method
from rtprov.broker.content_header import ACCEPTED_BYTES, ACCEPTED_FIELDS
from rtprov.broker.engine import MAX_QUEUES
from rtprov.broker.routing import MAX_EXCHANGES, MAX_KEYS
from tests.broker.cases import BrokerContract, EmbeddedTestCase
from tests.broker.raw import LOGIN, RawClient, publish

quick = settings(
    derandomize=True, max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

OPENING = PROTOCOL_HEADER + encode_method(0, LOGIN) + encode_method(0, Connection.TuneOk(2047, 131072, 0))
OPENING += encode_method(0, Connection.Open("/"))
CHANNEL = OPENING + encode_method(1, Channel.Open())


CONVERSATION = CHANNEL + b"".join(
    (
        encode_method(1, Queue.Declare(queue="q", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 1})),
        encode_method(1, Queue.Bind(queue="q", exchange="amq.topic", routing_key="a.#")),
        encode_method(1, Confirm.Select()),
        publish(1, b"body", exchange="amq.topic", routing_key="a.b", mandatory=True),
        encode_method(1, Basic.Qos(prefetch_count=1)),
        encode_method(1, Basic.Consume(queue="q", consumer_tag="c")),
        encode_method(1, Basic.Nack(delivery_tag=1, requeue=True)),
        encode_method(1, Basic.Cancel(consumer_tag="c")),
        encode_method(1, Channel.Close(200, "", 0, 0)),
        encode_method(0, Connection.Close(200, "", 0, 0)),
    )
)

names = st.sampled_from(["", "q", "r", "amq.topic", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.1", "x" * 200])
tables: st.SearchStrategy[Any] = st.dictionaries(
    st.sampled_from(["x-queue-type", "x-stream-offset", "x-max-age", "x-dead-letter-exchange", "x-death", "x"]),
    st.one_of(
        st.sampled_from(["stream", "quorum", "first", "1D", "", "amq.topic"]), st.integers(-5, 5), st.none(), st.just([{"queue": 1}])
    ),
    max_size=2,
)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "bit": st.booleans(),
    "octet": st.integers(0, 255),
    "short": st.integers(0, 3),
    "long": st.integers(0, 3),
    "longlong": st.integers(0, 4),
    "shortstr": names,
    "longstr": names,
    "table": tables,
    "timestamp": st.none(),
}


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One method of either side, with arguments that often mean something, on a channel that may be open."""
    method_class: type[base.Frame] = draw(st.sampled_from([INDEX_MAPPING[index] for index in sorted(INDEX_MAPPING)]))
    channel = draw(st.sampled_from([0, 1, 1, 1, 2, 3000]))
    method = method_class()
    for name in method_class.attributes():
        value = draw(BY_TYPE[method_class.amqp_type(name)])
        setattr(method, name, value)
    try:
        data = encode_method(channel, method)
    except (ValueError, TypeError):
        return b""
    if isinstance(method, Basic.Publish):
        properties = Basic.Properties(expiration=draw(st.sampled_from(["", "0", "5", "x"])))
        properties.headers = draw(tables) or None
        properties.reply_to = draw(st.sampled_from(["", "amq.rabbitmq.reply-to"]))
        body = draw(st.binary(max_size=5))
        return encode_content(channel, method, encode_header(properties, len(body)), body, 131072)
    return data


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sensible conversation in which some bytes are changed, missing or too many."""
    data = bytearray(CONVERSATION)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(8, len(data) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                data[place] = draw(st.integers(0, 255))
            case 1:
                del data[place : place + draw(st.integers(1, 20))]
            case _:
                data[place:place] = draw(st.binary(min_size=1, max_size=20))
        if len(data) < 10:
            break
    return bytes(data)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return bytes([kind]) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + b"\xce"


class NonsenseTests(EmbeddedTestCase, BrokerContract):
    def suffer(self, *pieces: bytes) -> None:
        """Send these bytes; then another client must be served, nothing unexpected be logged, and nothing be left of this one."""
        client = RawClient()
        self.pump(self.meet(client))
        for piece in pieces:
            client.say(piece)
            self.network.settle()
        self.pump(self.served())
        self.network.advance(1)
        client.end()
        self.network.advance(20)
        self.assertTrue(client.lost.called)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual((len(self.broker.connections), self.broker.replies), (0, {}))

    async def meet(self, client: RawClient) -> None:
        await self.open(client)

    async def served(self) -> None:
        channel = await self.channel()
        queue = (await self.ask(channel, Queue.Declare(exclusive=True))).queue
        await self.publish(queue, b"served")
        self.assertEqual(await self.get_body(channel, queue), b"served")
        await self.close_connections()

    @quick
    @given(st.sampled_from([b"", PROTOCOL_HEADER, OPENING, CHANNEL]), st.binary(max_size=200))
    def test_garbage(self, before: bytes, garbage: bytes) -> None:
        """Random bytes at any stage."""
        self.suffer(before, garbage)

    @quick
    @given(damaged(), st.booleans())
    def test_damaged(self, data: bytes, bytewise: bool) -> None:
        """A conversation with damaged bytes, in one piece or in small ones."""
        self.suffer(*((data[place : place + 7] for place in range(0, len(data), 7)) if bytewise else [data]))

    @quick
    @given(st.lists(frames(), min_size=1, max_size=12))
    def test_methods(self, methods: list[bytes]) -> None:
        """Well-formed methods in any order, on any channel, those of the broker's side among them."""
        self.suffer(CHANNEL + encode_method(1, Queue.Declare(queue="q", durable=True)), *methods)

    def test_every_prefix(self) -> None:
        """A conversation that breaks off anywhere."""
        for end in range(0, len(CONVERSATION), 3):
            self.suffer(CONVERSATION[:end])

    def test_deep_table(self) -> None:
        """A table nested without end in the log-in, before anybody is known."""
        table = b""
        for _ in range(500):
            table = b"\x01aF" + len(table).to_bytes(4, "big") + table
        payload = b"\x00\x0a\x00\x0b" + len(table).to_bytes(4, "big") + table
        self.suffer(PROTOCOL_HEADER + b"\x01\x00\x00" + len(payload).to_bytes(4, "big") + payload + b"\xce")


class FloodTests(EmbeddedTestCase, BrokerContract):
    async def opened(self) -> RawClient:
        client = await self.open(RawClient())
        client.say(CHANNEL)
        for kind in (Connection.Start, Connection.Tune, Connection.OpenOk, Channel.OpenOk):
            await client.hear(kind)
        return client

    async def flood(self, methods: Iterable[base.Frame], code: int) -> None:
        """Send methods without waiting; the connection must end with this code, and another client be served."""
        client = await self.opened()
        client.say(b"".join(encode_method(1, method) for method in methods))
        heard = await client.heard.get()
        while not isinstance(heard, Connection.Close):
            heard = await client.heard.get()
        self.assertEqual(heard.reply_code, code, heard.reply_text)
        client.say(Connection.CloseOk())
        await client.lost
        await self.ask(await self.channel(), Queue.Declare(exclusive=True))

    async def test_queues(self) -> None:
        """There are only so many queues: 506."""
        await self.flood((Queue.Declare(exclusive=True, nowait=True) for _ in range(MAX_QUEUES + 1)), 506)

    async def test_exchanges(self) -> None:
        """There are only so many exchanges: 506."""
        await self.flood((Exchange.Declare(exchange=f"e{number}", nowait=True) for number in range(MAX_EXCHANGES + 1)), 506)

    async def test_consumers(self) -> None:
        """A channel has only so many consumers: 506."""
        consume = [Basic.Consume(queue="", nowait=True)] * 2001
        await self.flood([Queue.Declare(exclusive=True, nowait=True), *consume], 506)

    async def test_bindings(self) -> None:
        """A queue is bound to an exchange only so often: 506."""
        binds = (Queue.Bind(exchange="amq.topic", routing_key=f"{number}", nowait=True) for number in range(MAX_KEYS + 1))
        await self.flood([Queue.Declare(exclusive=True, nowait=True), *binds], 506)

    async def test_channels(self) -> None:
        """A connection has only so many channels: 504."""
        client = await self.opened()
        client.say(b"".join(encode_method(number, Channel.Open()) for number in range(2, 3000)))
        for _ in range(2, 2048):
            await client.hear(Channel.OpenOk)
        self.assertEqual((await client.hear(Connection.Close)).reply_code, 504)
        client.end()
        await client.lost

    async def test_connections(self) -> None:
        """There are only so many connections, and there is room again once one has ended."""
        clients = [await self.open(RawClient()) for _ in range(self.broker.limits.connections)]
        await self.assertFails(self.connect(), Exception)
        clients[0].end()
        await clients[0].lost
        await self.connect()
        for client in clients[1:]:
            client.end()

    async def test_silent(self) -> None:
        """A client that says nothing, or stops in the middle of its log-in, is hung up on."""
        clients = []
        for said in (b"", PROTOCOL_HEADER[:3], PROTOCOL_HEADER, PROTOCOL_HEADER + encode_method(0, LOGIN)):
            clients.append(await self.open(RawClient()))
            clients[-1].say(said)
        for client in clients:
            await client.lost

    async def test_huge_sizes(self) -> None:
        """A body larger than allowed is refused when it is announced, a frame larger than agreed when it begins."""
        for wrong in (_huge_body(), b"\x03\x00\x01\xff\xff\xff\xff" + b"x"):
            client = await self.opened()
            client.say(wrong)
            self.assertEqual((await client.hear(Connection.Close)).reply_code, 501)
            client.end()
            await client.lost

    async def test_unfinished_bodies(self) -> None:
        """Messages that never end may take only so much together: 506 for whom it is too much; what others have begun is finished."""
        self.broker.limits = attrs.evolve(self.broker.limits, unfinished_bytes=100_000)
        honest = await self.opened()
        header = encode_header(Basic.Properties(), 60_000)
        start = encode_method(1, Basic.Publish(routing_key="nowhere", mandatory=True)) + frame(2, 1, header)
        honest.say(start + frame(3, 1, bytes(30_000)))
        large: FieldTable = {"large": "x" * 30_000}
        for headers, pieces in ((None, [bytes(30_000)]), (None, [b"", b"x"] * 30_000), (large, [])):
            greedy = await self.opened()
            header = encode_header(Basic.Properties(headers=headers), 200_000)
            for number in range(2, 5):
                start = encode_method(number, Basic.Publish()) + frame(2, number, header)
                greedy.say(encode_method(number, Channel.Open()) + start + b"".join(frame(3, number, piece) for piece in pieces))
            for _ in range(3):
                await greedy.hear(Channel.OpenOk)
            self.assertEqual((await greedy.hear(Connection.Close)).reply_code, 506)
            greedy.end()
            await greedy.lost
        honest.say(frame(3, 1, bytes(30_000)))
        await honest.hear(Basic.Return)
        self.assertEqual(self.broker.unfinished_bytes, 0)
        honest.end()

    async def test_large_properties(self) -> None:
        """Properties that leave no room for what the broker adds are refused with 406: they would stop whoever consumes them."""
        dead = await self.queue(await self.channel())
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        large: FieldTable = {"large": "x" * (ACCEPTED_BYTES - 29)}
        many: FieldTable = {"many": [None] * (ACCEPTED_FIELDS - 1)}
        for headers, above in ((large, {"large": "x" * (ACCEPTED_BYTES - 28)}), (many, {"many": [None] * ACCEPTED_FIELDS})):
            channel = await self.channel()
            queue = await self.queue(channel, "quorum", arguments)
            await self.publish(queue, b"", headers=headers)
            for _ in range(2):
                held = await self.get(channel, queue, no_ack=False)
                assert held is not None
                await self.ask(channel, Basic.Nack(delivery_tag=held.delivery_tag, requeue=True))
            held = await self.get(channel, queue, no_ack=False)
            assert held is not None and held.content is not None
            self.assertEqual(held.content.properties.headers, {**headers, "x-delivery-count": 2})
            await self.ask(channel, Basic.Nack(delivery_tag=held.delivery_tag, requeue=False))
            letter = await self.get(channel, dead)
            assert letter is not None and letter.content is not None
            found = letter.content.properties.headers or {}
            self.assertEqual((found | headers, "x-death" in found), (found, True))
            properties = Basic.Properties(headers=above)  # type: ignore[arg-type]
            await channel.basic_publish(routing_key=queue, content=Content(b"", None, properties))
            await self.refused(channel, Basic.Qos(), 406, "are taken")

    async def test_topic_of_many_hashes(self) -> None:
        """A binding and a routing key made to be slow to compare are not."""
        channel = await self.channel()
        await self.ask(channel, Queue.Declare(exclusive=True))
        await self.ask(channel, Queue.Bind(exchange="amq.topic", routing_key=".".join(["#.a"] * 60)))
        await self.publish(".".join(["a"] * 120 + ["b"]), exchange="amq.topic")

    async def test_reads_nothing(self) -> None:
        """Who never reads is sent only so much, be it deliveries, answers or returns; others are served meanwhile."""
        limit = self.broker.limits.backlog_bytes
        channel = await self.channel()
        queue = await self.queue(channel)
        for _ in range(200):
            await self.publish(queue, b"x" * 100_000)
        for greedy in (
            encode_method(1, Basic.Consume(queue=queue, no_ack=True)),
            encode_method(1, Basic.Get(queue=queue)) * 200,
            publish(1, b"x" * 100_000, routing_key="nowhere", mandatory=True) * 200,
            encode_method(1, Basic.Qos()) * 500_000,
        ):
            client = await self.opened()
            server = next(end for name, end in reversed(self.network.connections) if end.protocol is client).other
            written = server.written
            client.transport.pauseProducing()  # type: ignore[union-attr]
            client.say(greedy)
            await self.publish(queue, b"y")
            await self.settle(channel, queue)
            self.assertLess(server.written - written, limit + 1_000_000)
            client.transport.abortConnection()  # type: ignore[union-attr]
            await client.lost
        self.assertGreater(await self.count(channel, queue), 0)

    async def test_reads_late(self) -> None:
        """Who reads late gets everything, in order."""
        client = await self.opened()
        client.transport.pauseProducing()  # type: ignore[union-attr]
        count = 100
        for number in range(count):
            client.say(publish(1, b"%03d" % number * 50_000, routing_key="nowhere", mandatory=True))
        channel = await self.channel()
        await self.ask(channel, Basic.Qos())
        client.transport.resumeProducing()  # type: ignore[union-attr]
        for _ in range(count):
            await client.hear(Basic.Return)
        client.say(Basic.Qos(), channel=1)
        await client.hear(Basic.QosOk)
        client.end()

    async def test_wrong_log_ins(self) -> None:
        """Log-ins that do not parse close the connection."""
        for mechanism, response in (("PLAIN", "no zeros"), ("AMQPLAIN", "no table"), ("GSSAPI", ""), ("PLAIN", "\0" * 9)):
            client = await self.open(RawClient())
            client.say(PROTOCOL_HEADER, Connection.StartOk({}, mechanism, response, "en_US"))
            await client.hear(Connection.Start)
            self.assertIn((await client.hear(Connection.Close)).reply_code, (501, 503))
            client.end()
            await client.lost


def _huge_body() -> bytes:
    """A publish whose header announces a terabyte."""
    header = encode_header(Basic.Properties(), 1 << 40)
    return encode_method(1, Basic.Publish(routing_key="q")) + b"\x02\x00\x01" + len(header).to_bytes(4, "big") + header + b"\xce"

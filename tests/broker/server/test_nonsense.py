"""Invalid data sent to the embedded broker, mostly made by Hypothesis: no unexpected error is
raised, nothing is left, and other clients are served.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pamqp import base
from pamqp.commands import INDEX_MAPPING, Basic, Channel, Confirm, Connection, Queue

from rtprov.amqp.codec import encode_header
from rtprov.amqp.framing import PROTOCOL_HEADER, encode_content, encode_method
from tests.support.broker_cases import BrokerContract, EmbeddedTestCase
from tests.support.raw_amqp import CHANNEL, OPENING, RawClient, publish

quick = settings(
    derandomize=True,
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

CONVERSATION = CHANNEL + b"".join(
    (
        encode_method(
            1,
            Queue.Declare(
                queue="q", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 1}
            ),
        ),
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

names = st.sampled_from(
    ["", "q", "r", "amq.topic", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.1", "x" * 200]
)
tables: st.SearchStrategy[Any] = st.dictionaries(
    st.sampled_from(
        ["x-queue-type", "x-stream-offset", "x-max-age", "x-dead-letter-exchange", "x-death", "x"]
    ),
    st.one_of(
        st.sampled_from(["stream", "quorum", "first", "1D", "", "amq.topic"]),
        st.integers(-5, 5),
        st.none(),
        st.just([{"queue": 1}]),
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
    """Generate one method of either side, with arguments that are often valid, on a channel that
    may be open.
    """
    method_class: type[base.Frame] = draw(
        st.sampled_from([INDEX_MAPPING[index] for index in sorted(INDEX_MAPPING)])
    )
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
    """Generate a valid conversation in which some bytes are changed, missing or added."""
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


class NonsenseTests(EmbeddedTestCase, BrokerContract):
    def suffer(self, *pieces: bytes) -> None:
        """Send these bytes. Then check that another client is served, that no unexpected error was
        logged, and that nothing of this client is left.
        """
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
        """Random bytes at any stage do no harm."""
        self.suffer(before, garbage)

    @quick
    @given(damaged(), st.booleans())
    def test_damaged(self, data: bytes, bytewise: bool) -> None:
        """A conversation with damaged bytes does no harm, in one piece or in small ones."""
        self.suffer(
            *((data[place : place + 7] for place in range(0, len(data), 7)) if bytewise else [data])
        )

    @quick
    @given(st.lists(frames(), min_size=1, max_size=12))
    def test_methods(self, methods: list[bytes]) -> None:
        """Well-formed methods in any order, on any channel, including those that only a broker may
        send, do no harm.
        """
        self.suffer(CHANNEL + encode_method(1, Queue.Declare(queue="q", durable=True)), *methods)

    def test_every_prefix(self) -> None:
        """A conversation that ends at any byte does no harm."""
        for end in range(0, len(CONVERSATION), 3):
            self.suffer(CONVERSATION[:end])

    def test_deep_table(self) -> None:
        """A very deeply nested table in the log-in, before authentication, does no harm."""
        table = b""
        for _ in range(500):
            table = b"\x01aF" + len(table).to_bytes(4, "big") + table
        payload = b"\x00\x0a\x00\x0b" + len(table).to_bytes(4, "big") + table
        self.suffer(
            PROTOCOL_HEADER + b"\x01\x00\x00" + len(payload).to_bytes(4, "big") + payload + b"\xce"
        )

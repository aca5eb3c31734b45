"""Frames: parsed from any stream, assembled to commands, encoded. Nothing that a peer sends raises
anything worse than `AmqpError`.
"""

from __future__ import annotations

import contextlib
import datetime
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp.commands import Basic, Channel, Connection
from pamqp.common import FieldTable
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.codec import encode_header, encode_payload
from rtprov.amqp.framing import (
    HEARTBEAT,
    Assembler,
    Command,
    Frame,
    FrameParser,
    encode_content,
    encode_method,
)
from rtprov.errors import AmqpError

MAX_BODY = 1 << 20
DELIVER = Basic.Deliver("tag", 1, False, "exchange", "ключ")

# pamqp 3, for Python 3.10, cannot encode numbers from -128 to -1. (It decodes them.)
field_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1).filter(lambda number: not -128 <= number < 0)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcжз", min_size=1, max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


def commands(data: bytes, chunk: int = 1 << 30, frame_max: int = 131072) -> list[Command]:
    """Return all commands in `data`, which is fed in chunks."""
    parser, assembler = FrameParser(frame_max), Assembler(1, MAX_BODY)
    fed = [
        assembler.feed(frame)
        for i in range(0, len(data), chunk)
        for frame in parser.feed(data[i : i + chunk])
    ]
    return [command for command in fed if command is not None]


class RoundTripTests(SynchronousTestCase):
    @settings(max_examples=150)
    @given(
        st.binary(max_size=300),
        st.dictionaries(st.text("abcжз", min_size=1, max_size=9), field_values, max_size=4),
        st.integers(1, 60),
    )
    def test_any_content(self, body: bytes, headers: FieldTable, chunk: int) -> None:
        """Any body, with any headers, is unchanged after encoding and parsing, whatever the chunks
        and the frame size.
        """
        properties = Basic.Properties(headers=headers, correlation_id="Ж")
        data = encode_content(1, DELIVER, encode_header(properties, len(body)), body, frame_max=100)
        (command,) = commands(data, chunk)
        assert command.properties is not None
        self.assertEqual(command.body, body)
        self.assertEqual(command.properties.headers or {}, headers)
        self.assertEqual(command.properties.correlation_id, "Ж")

    def test_field_types(self) -> None:
        """Every field type that RabbitMQ uses is decoded: `x-death`, 64-bit offsets, negative
        numbers, times.
        """
        headers: FieldTable = {
            "x-death": [
                {
                    "count": 3,
                    "time": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
                    "routing-keys": ["ключ"],
                }
            ],
            "x-stream-offset": 2**62,
            "x-delivery-count": -1000,
            "big": 2**32 - 1,
            "true": True,
            "nothing": None,
            "table": {"inner": [1, "два", {}]},
            "raw": bytearray(b"\xff\0"),
        }
        (command,) = commands(
            encode_content(
                1, DELIVER, encode_header(Basic.Properties(headers=headers), 0), b"", 4096
            )
        )
        assert command.properties is not None
        self.assertEqual(command.properties.headers, headers)

    def test_every_size(self) -> None:
        """Bodies of about one frame are split and assembled correctly, also a byte at a time."""
        for size in (0, 1, 91, 92, 93, 183, 184, 185, 500):
            body = bytes(i % 256 for i in range(size))
            data = encode_content(
                1, DELIVER, encode_header(Basic.Properties(), size), body, frame_max=100
            )
            for chunk in (1, 7, 1 << 30):
                self.assertEqual(
                    [command.body for command in commands(data, chunk, frame_max=100)], [body]
                )

    def test_no_limit(self) -> None:
        """A frame size of 0 means no limit. It causes no endless loop and loses no body."""
        body = bytes(300_000)
        data = encode_content(
            1, DELIVER, encode_header(Basic.Properties(), len(body)), body, frame_max=0
        )
        self.assertEqual([command.body for command in commands(data)], [body])

    def test_pass_on(self) -> None:
        """A received header can be sent again unchanged."""
        header = encode_header(Basic.Properties(message_type="t", headers={"a": 1}), 3)
        (command,) = commands(encode_content(1, DELIVER, header, b"abc", 4096))
        self.assertEqual(command.header, header)

    def test_repr(self) -> None:
        """A command's repr shows no body and no header."""
        (command,) = commands(
            encode_content(
                1, DELIVER, encode_header(Basic.Properties(app_id="sesame"), 6), b"sesame", 4096
            )
        )
        self.assertNotIn("sesame", repr(command))


class WrongTests(SynchronousTestCase):
    def code(self, data: bytes) -> int:
        error: AmqpError = self.assertRaises(AmqpError, commands, data)
        return error.reply_code

    def test_wrong_frames(self) -> None:
        """Frames that are too large, of unknown type or without their end byte are frame errors."""
        for data in (b"\x01\0\x01\0\x02\0\0\0", b"\x04\0\x01\0\0\0\0\xce", HEARTBEAT[:-1] + b"\0"):
            self.assertEqual(self.code(data), 501)

    def test_wrong_order(self) -> None:
        """Content frames without their method, or a method within the content of another one, are
        unexpected frames.
        """
        header = encode_header(Basic.Properties(), 5)
        content = encode_content(1, DELIVER, header, b"12345", 4096)
        method = encode_method(1, DELIVER)
        for data in (
            content[len(method) :],
            content[-13:],
            method + method,
            method + content[-13:],
            content[:-13] + method,
        ):
            self.assertEqual(self.code(data), 505)

    def test_wrong_sizes(self) -> None:
        """A body larger than announced, or larger than allowed, is a frame error."""
        content = encode_content(1, DELIVER, encode_header(Basic.Properties(), 5), b"123456", 4096)
        self.assertEqual(self.code(content), 501)
        huge = encode_content(
            1, DELIVER, encode_header(Basic.Properties(), MAX_BODY + 1), b"", 4096
        )
        self.assertEqual(self.code(huge), 501)

    @settings(max_examples=300)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Arbitrary bytes raise nothing worse than `AmqpError`."""
        with contextlib.suppress(AmqpError):
            commands(data)

    @settings(max_examples=300)
    @given(st.data())
    def test_damaged(self, data: st.DataObject) -> None:
        """If any one byte of a valid stream is changed, that raises nothing worse than
        `AmqpError`.
        """
        good = bytearray(
            encode_method(1, Connection.Start(0, 9, {"a": [1, {"b": None}]}, "PLAIN", "en_US"))
            + encode_content(
                1,
                DELIVER,
                encode_header(Basic.Properties(headers={"x": [1, 2.5, "s"]}), 3),
                b"abc",
                4096,
            )
            + encode_method(1, Channel.Close(404, "NOT_FOUND", 50, 10))
        )
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(AmqpError):
            commands(bytes(good))


class ParserTests(SynchronousTestCase):
    def test_bytewise(self) -> None:
        """A frame is returned with its last byte, and not before."""
        parser = FrameParser()
        for _ in range(2):
            for byte in HEARTBEAT[:-1]:
                self.assertEqual(parser.feed(bytes([byte])), [])
            self.assertEqual(parser.feed(HEARTBEAT[-1:]), [Frame(8, 0, b"")])

    def test_tiny_pieces(self) -> None:
        """A body in tiny or empty pieces uses no more memory than its size, which `unfinished`
        counts.
        """
        assembler = Assembler(1, MAX_BODY)
        assembler.feed(Frame(1, 1, encode_payload(Basic.Publish())))
        header = encode_header(Basic.Properties(), 10_001)
        assembler.feed(Frame(2, 1, header))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(10_000):
            assembler.feed(Frame(3, 1, b""))
            assembler.feed(Frame(3, 1, b"x"))
        self.assertLess(tracemalloc.get_traced_memory()[0], 20_000)
        self.assertEqual(assembler.unfinished, len(header) + 10_000)
        command = assembler.feed(Frame(3, 1, b"y"))
        assert command is not None
        self.assertEqual((command.body, assembler.unfinished), (b"x" * 10_000 + b"y", 0))

    def test_many(self) -> None:
        """Many frames in one read are returned in order, and the rest is kept."""
        parser = FrameParser()
        data = b"".join(b"\x03\0\x01\0\0\0\x01" + bytes([i]) + b"\xce" for i in range(100))
        self.assertEqual(
            [frame.payload[0] for frame in parser.feed(data + HEARTBEAT[:5])], list(range(100))
        )
        self.assertEqual(len(parser.feed(HEARTBEAT[5:])), 1)

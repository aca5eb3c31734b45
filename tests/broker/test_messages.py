"""Messages in the broker: headers that it adds, and everything else unchanged."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.codec import decode_header, encode_header
from rtprov.amqp.fields import MAX_FIELDS
from rtprov.broker.content_header import MAX_BYTES, join, split
from rtprov.broker.engine.dead_lettering import EXPIRED, dead_letter
from rtprov.broker.messages import Message

NOON = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
text = st.text(max_size=20)
properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": text,
        "content_encoding": text,
        "headers": st.dictionaries(
            st.text(min_size=1, max_size=10) | st.just("x-stream-offset"),
            st.booleans() | text,
            max_size=4,
        ),
        "delivery_mode": st.sampled_from([1, 2]),
        "correlation_id": text,
        "expiration": text,
    },
)


def message(**given: Any) -> Message:
    header = encode_header(Basic.Properties(**given), 3)
    return Message("", "q", decode_header(header).properties, header, b"abc")


class ChangedTests(SynchronousTestCase):
    @given(properties, st.integers(0, 2**63 - 1))
    def test_one_more_header(self, given: dict[str, Any], value: int) -> None:
        """Whatever properties a message has, it gets one more header, or a replaced value. Body
        size and everything else stay the same.
        """
        decoded = decode_header(message(**given).with_number("x-stream-offset", value))
        self.assertEqual(decoded.body_size, 3)
        expected = Basic.Properties(
            **{**given, "headers": {**given.get("headers", {}), "x-stream-offset": value}}
        )
        self.assertEqual(
            dict(decoded.properties), dict(decode_header(encode_header(expected, 3)).properties)
        )

    def test_bytes_stay(self) -> None:
        """The bytes of the other properties and headers are passed on unchanged, whatever types
        they have.
        """
        given = message(headers={"small": 1, "нет": None}, correlation_id="7")
        spliced = given.with_number("x-delivery-count", 2)
        table = given.header[given.header.index(b"\x05small") : given.header.index(b"\x017")]
        self.assertIn(table, spliced)
        self.assertTrue(spliced.endswith(b"\x017"))

    def test_replaced_beside_what_cannot_be_written(self) -> None:
        """A number replaces an earlier one, and its neighbours stay unchanged, even if pamqp could
        not encode them.
        """
        odd = b"\x01oS\0\0\0\x01\xff"
        given = message(headers={"x-stream-offset": 1})
        parts = split(given.header)
        table = odd + parts["headers"][4:]
        given = given.with_parts({**parts, "headers": len(table).to_bytes(4, "big") + table})
        again = given.with_number("x-stream-offset", 2)
        self.assertIn(odd, again)
        self.assertEqual(
            decode_header(again).properties.headers, {"o": b"\xff", "x-stream-offset": 2}
        )


class PartsTests(SynchronousTestCase):
    @given(properties)
    def test_round_trip(self, given: dict[str, Any]) -> None:
        """A header that is split and joined is the same, byte for byte."""
        header = message(**given).header
        self.assertEqual(join(split(header), 3), header)

    def test_every_property(self) -> None:
        """Each property is found by its name, whatever properties are before it."""
        values = dict.fromkeys(Basic.Properties.attributes(), "text")
        every: dict[str, Any] = {
            **values,
            "headers": {"a": 1},
            "delivery_mode": 2,
            "priority": 3,
            "timestamp": NOON,
            "cluster_id": "",
        }
        header = encode_header(Basic.Properties(**every), 3)
        parts = split(header)
        self.assertEqual(set(parts), set(every) - {"cluster_id"})  # which must be empty
        self.assertEqual(join(parts, 3), header)
        for name in parts:
            (only,) = split(join({name: parts[name]}, 3)).items()
            self.assertEqual(only, (name, parts[name]))

    def test_others_stay(self) -> None:
        """Changing a message's properties does not change those of another message that was decoded
        from the same bytes.
        """
        header = encode_header(Basic.Properties(delivery_mode=2), 3)
        first = Message("", "q", decode_header(header).properties, header, b"abc")
        changed = first.with_parts({**split(header), "reply_to": b"\x04here"})
        self.assertEqual(
            (changed.properties.reply_to, changed.properties.delivery_mode), ("here", 2)
        )
        self.assertIsNone(decode_header(header).properties.reply_to)


class DeathTests(SynchronousTestCase):
    """Invalid or oversized headers do not prevent a message from becoming a dead letter."""

    def letter(self, header: bytes) -> dict[str, Any]:
        """Return the headers of the dead letter that a message with this content header becomes."""
        given = Message("", "q", decode_header(header).properties, header, b"abc")
        letter = dead_letter(given, "q", {"x-dead-letter-exchange": ""}, EXPIRED, 0.0)
        assert letter is not None
        self.assertEqual(dict(decode_header(letter.header).properties), dict(letter.properties))
        return dict(letter.properties.headers or {})

    def test_made_up_deaths(self) -> None:
        """An ``x-death`` that cannot be encoded again is replaced by ours."""
        entry = b"\x01oS\0\0\0\x01\xff"
        deaths = b"F" + len(entry).to_bytes(4, "big") + entry
        field = b"\x07x-deathA" + len(deaths).to_bytes(4, "big") + deaths
        headers = self.letter(join({"headers": len(field).to_bytes(4, "big") + field}, 3))
        self.assertEqual([death["reason"] for death in headers["x-death"]], [EXPIRED])
        self.assertEqual(
            (headers["x-first-death-reason"], headers["x-first-death-queue"]), (EXPIRED, "q")
        )

    def test_wide_count(self) -> None:
        """The count is a 64-bit number, as RabbitMQ writes it, since some clients can read no
        other.
        """
        header = encode_header(Basic.Properties(), 3)
        given = Message("", "q", decode_header(header).properties, header, b"abc")
        for count in (1, 2):
            letter = dead_letter(given, "q", {"x-dead-letter-exchange": ""}, EXPIRED, 0.0)
            assert letter is not None
            self.assertIn(b"\x05countl" + count.to_bytes(8, "big"), letter.header)
            given = letter

    def test_no_room_in_a_frame(self) -> None:
        """If a message's headers and ours are too large for a frame, its headers are dropped, and
        the dead letter stays.
        """
        headers = self.letter(
            encode_header(Basic.Properties(headers={"large": "x" * MAX_BYTES}), 3)
        )
        self.assertNotIn("large", headers)
        self.assertEqual(len(headers["x-death"]), 1)

    def test_no_room(self) -> None:
        """A message with the maximal size of headers loses them, but still becomes a dead
        letter.
        """
        headers = self.letter(
            encode_header(
                Basic.Properties(headers={str(number): 1 for number in range(MAX_FIELDS)}), 3
            )
        )
        self.assertEqual(
            sorted(headers),
            ["x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason"],
        )

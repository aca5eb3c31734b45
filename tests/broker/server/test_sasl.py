"""The SASL response with which a client logs in."""

from __future__ import annotations

from pamqp import encode
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.fields import MAX_DEPTH, MAX_FIELDS
from rtprov.broker.server.sasl import credentials_from
from rtprov.errors import AmqpError


class AmqPlain(SynchronousTestCase):
    def log_in(self, more: bytes = b"") -> tuple[str, str]:
        """Return the credentials of a log-in whose table also has the encoded fields `more`."""
        table = encode.field_table({"LOGIN": "user", "PASSWORD": "secret"})
        return credentials_from("AMQPLAIN", table[4:] + more)

    def test_log_in(self) -> None:
        """The table has the user name and the password. Other fields are ignored."""
        self.assertEqual(self.log_in(), ("user", "secret"))
        self.assertEqual(self.log_in(b"\1x" + array(b"V" * 100)), ("user", "secret"))

    def test_limits(self) -> None:
        """A table with too many fields, or fields that are nested too deeply, is refused as
        malformed.
        """
        deep = b"V"
        for _ in range(MAX_DEPTH):
            deep = array(deep)
        for value in (array(b"V" * MAX_FIELDS), deep):
            error = self.assertRaises(AmqpError, self.log_in, b"\1x" + value)
            self.assertEqual(error.reply_code, 501)


def array(values: bytes) -> bytes:
    """Return an array of encoded values."""
    return b"A" + len(values).to_bytes(4, "big") + values

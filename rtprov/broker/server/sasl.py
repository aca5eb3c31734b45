"""Decode the SASL response with which a client logs in (``connection.start-ok``, RFC 4422)."""

from __future__ import annotations

from pamqp import decode

from rtprov.amqp.codec import UNPARSABLE
from rtprov.amqp.fields import check_table
from rtprov.errors import AmqpError

MECHANISMS = "PLAIN AMQPLAIN"


def credentials_from(mechanism: str, response: str | bytes) -> tuple[str, str]:
    """Return the user name and the password.

    Raises `AmqpError`: 503 for an unknown mechanism, 501 for a malformed or too large response.
    """
    data = response if isinstance(response, bytes) else response.encode()
    try:
        if mechanism == "PLAIN":  # RFC 4616
            _, username, password = data.split(b"\0")
            return username.decode(), password.decode()
        if mechanism == "AMQPLAIN":  # the response is a field table without its length
            encoded = len(data).to_bytes(4, "big") + data
            check_table(encoded)
            _, table = decode.field_table(encoded)
            return str(table["LOGIN"]), str(table["PASSWORD"])
    except UNPARSABLE as error:
        raise AmqpError(501, "FRAME_ERROR - the log-in does not parse", 10, 11) from error
    raise AmqpError(
        503, f"COMMAND_INVALID - unknown authentication mechanism '{mechanism[:32]}'", 10, 11
    )

"""Make dead letters from messages that a queue drops (https://www.rabbitmq.com/docs/dlx)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import attrs
from pamqp import encode

from rtprov.broker.content_header import EMPTY_TABLE, number, sized, split, with_headers
from rtprov.broker.messages import Message
from rtprov.errors import AmqpError

REJECTED, EXPIRED, DELIVERY_LIMIT = "rejected", "expired", "delivery_limit"


def dead_letter(
    message: Message, queue: str, arguments: Mapping[str, Any], reason: str, now: float
) -> Message | None:
    """Return the message to publish to the queue's dead-letter exchange, or None if it has none.

    The header ``x-death`` gets an entry for `queue` and `reason`. `arguments` are those of the
    queue, `now` is in seconds since the epoch.
    """
    exchange = arguments.get("x-dead-letter-exchange")
    if exchange is None:
        return None
    first = _first_death(message, queue, reason)
    # The x-first-death headers are set only once.
    own = {} if "x-death" in (message.properties.headers or {}) else first
    death = _death(message, queue, reason, now)
    letter = attrs.evolve(
        message,
        exchange=exchange,
        routing_key=arguments.get("x-dead-letter-routing-key", message.routing_key),
    )
    parts = split(message.header)
    parts.pop("expiration", None)
    try:
        deaths = _encoded(_with_death(_deaths(message), death))
        table = with_headers(parts.get("headers", EMPTY_TABLE), {**own, "x-death": deaths})
        return letter.with_parts({**parts, "headers": table})
    except (AmqpError, TypeError, ValueError, OverflowError, struct.error):
        # The message's own headers leave no room, or a client has set an x-death that cannot be
        # encoded. Keep only the new headers: they prevent a loop.
        return letter.with_parts(
            {**parts, "headers": with_headers(EMPTY_TABLE, {**first, "x-death": _encoded([death])})}
        )


def would_loop(letter: Message, queue: str) -> bool:
    """Return whether the dead letter would go round for ever if published to `queue`.

    That is so if it was in this queue before, and no consumer has rejected it since.
    """
    deaths = _deaths(letter)
    for place, death in enumerate(deaths):
        if death.get("queue") == queue:
            return all(each.get("reason") != REJECTED for each in deaths[: place + 1])
    return False


def _deaths(message: Message) -> list[dict[str, Any]]:
    """Return the entries of ``x-death``, newest first.

    Clients can set the header to anything; entries that are not tables are ignored.
    """
    deaths = (message.properties.headers or {}).get("x-death")
    return (
        [death for death in deaths if isinstance(death, dict)] if isinstance(deaths, list) else []
    )


def _first_death(message: Message, queue: str, reason: str) -> dict[str, bytes]:
    first = {"reason": reason, "queue": queue, "exchange": message.exchange}
    return {
        f"x-first-death-{what}": b"S" + encode.long_string(text) for what, text in first.items()
    }


def _encoded(deaths: list[dict[str, Any]]) -> bytes:
    """Return the encoded value of ``x-death``, an array of tables.

    ``count`` is encoded as a 64-bit integer, because clients rely on that.
    """
    tables = []
    for death in deaths:
        table, count = encode.field_table(death), death.get("count")
        tables.append(
            b"F"
            + (with_headers(table, {"count": number(count)}) if isinstance(count, int) else table)
        )
    return b"A" + sized(b"".join(tables))


def _death(message: Message, queue: str, reason: str, now: float) -> dict[str, Any]:
    death: dict[str, Any] = {
        "count": 1,
        "reason": reason,
        "queue": queue,
        "time": datetime.fromtimestamp(now, tz=timezone.utc),
        "exchange": message.exchange,
        "routing-keys": [message.routing_key],
    }
    if message.properties.expiration:
        death["original-expiration"] = message.properties.expiration
    return death


def _with_death(deaths: list[dict[str, Any]], death: dict[str, Any]) -> list[dict[str, Any]]:
    """Return `deaths` with `death` added first.

    There is one entry for each queue and reason. If there is one already, its ``count`` is
    increased, and it moves to the front.
    """
    for known in deaths:
        if (known.get("queue"), known.get("reason")) == (death["queue"], death["reason"]):
            count = known.get("count")
            again = {**known, "count": count + 1 if isinstance(count, int) else 1}
            return [again, *(each for each in deaths if each is not known)]
    return [death, *deaths]

"""Dead letters: what a message becomes that a queue gives up on
(https://www.rabbitmq.com/docs/dlx).
"""

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
    """What goes to the queue's dead-letter exchange, with one more entry in ``x-death``; None where
    the queue has none.
    """
    exchange = arguments.get("x-dead-letter-exchange")
    if exchange is None:
        return None
    first = _first_death(message, queue, reason)
    # where it was is told once
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
        # Its own headers leave no room for ours, or an x-death that somebody made up cannot be
        # written again: ours keep it from circling.
        return letter.with_parts(
            {**parts, "headers": with_headers(EMPTY_TABLE, {**first, "x-death": _encoded([death])})}
        )


def in_circles(letter: Message, queue: str) -> bool:
    """Whether the letter has been in this queue before, and nobody has refused it since: it would
    go round for ever.
    """
    deaths = _deaths(letter)
    for place, death in enumerate(deaths):
        if death.get("queue") == queue:
            return all(each.get("reason") != REJECTED for each in deaths[: place + 1])
    return False


def _deaths(message: Message) -> list[dict[str, Any]]:
    """The entries of ``x-death``, the newest first; anybody may have written anything there."""
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
    """The value of ``x-death``: an array of tables, each with a count that is a 64-bit number, on
    which clients rely.
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
    """One entry for each queue and reason, which counts; the newest comes first."""
    for known in deaths:
        if (known.get("queue"), known.get("reason")) == (death["queue"], death["reason"]):
            count = known.get("count")
            again = {**known, "count": count + 1 if isinstance(count, int) else 1}
            return [again, *(each for each in deaths if each is not known)]
    return [death, *deaths]

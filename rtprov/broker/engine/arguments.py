"""Validate the arguments and properties of a ``queue.declare``, also of a repeated one.

See https://www.rabbitmq.com/docs/queues#optional-arguments. The reply texts are RabbitMQ's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtprov.amqp.codec import SHORT_STRING
from rtprov.errors import AmqpError

_CLASSIC, _QUORUM, _STREAM = "classic", "quorum", "stream"

# For each argument: its type, and the queue types that accept it. RabbitMQ has more arguments. The
# broker replies 540 to an argument that is not listed here; it does not ignore any.
_KNOWN: dict[str, tuple[type, tuple[str, ...]]] = {
    "x-queue-type": (str, (_CLASSIC, _QUORUM, _STREAM)),
    "x-single-active-consumer": (bool, (_CLASSIC, _QUORUM)),
    "x-dead-letter-exchange": (str, (_CLASSIC, _QUORUM)),
    "x-dead-letter-routing-key": (str, (_CLASSIC, _QUORUM)),
    "x-delivery-limit": (int, (_QUORUM,)),
    "x-max-age": (str, (_STREAM,)),
    "x-stream-max-segment-size-bytes": (int, (_STREAM,)),
    # Invalid for quorum queues and streams; not implemented for classic queues.
    "x-max-priority": (int, ()),
}


def queue_kind(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the queue type given in `arguments`: "classic", "quorum" or "stream".

    Raises `AmqpError`: 406 for an invalid argument, 540 for one that is not implemented.
    """
    kind = arguments.get("x-queue-type", _CLASSIC)
    if kind not in (_CLASSIC, _QUORUM, _STREAM):
        raise _invalid("x-queue-type", name)
    unknown = sorted(
        key
        for key in arguments
        if key not in _KNOWN or (kind == _CLASSIC and key == "x-max-priority")
    )
    if unknown:
        raise AmqpError(540, f"NOT_IMPLEMENTED - queue arguments {unknown}")
    for key, value in arguments.items():
        wanted, kinds = _KNOWN[key]
        if kind not in kinds:
            raise _invalid(key, name, f" of queue type rabbit_{kind}_queue")
        if (
            not isinstance(value, wanted)
            or (isinstance(value, bool) and wanted is int)
            or (isinstance(value, int) and value < 0)
        ):
            raise _invalid(key, name, f": {type(value).__name__}")
        if isinstance(value, str) and len(value.encode()) > SHORT_STRING:
            raise _invalid(key, name, f": longer than {SHORT_STRING} bytes")
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        raise _invalid("x-dead-letter-routing-key", name, ": routing_key_but_no_dlx_defined")
    return str(kind)


def check_properties(
    name: str, kind: str, *, durable: bool, exclusive: bool, auto_delete: bool
) -> None:
    """Check that a quorum queue or stream is durable, not exclusive and not auto-delete.

    Raises `AmqpError` 406.
    """
    if kind != _CLASSIC:
        for what, wrong in (
            ("exclusive-owner", exclusive),
            ("non-durable", not durable),
            ("auto-delete", auto_delete),
        ):
            if wrong:
                raise AmqpError(
                    406,
                    f"PRECONDITION_FAILED - invalid property '{what}' for queue '{name}' in"
                    " vhost '/'",
                )


def check_equivalent(
    kind: str, name: str, ours: Mapping[str, object], theirs: Mapping[str, object]
) -> None:
    """Check that a repeated declaration has the same properties as the existing object.

    `kind` is "queue" or "exchange". `ours` are the existing properties, `theirs` the declared ones.
    Raises `AmqpError` 406.
    """
    for what, current in ours.items():
        if theirs[what] != current:
            raise _inequivalent(what, kind, name, theirs[what], current)


def check_equivalent_arguments(
    name: str, kind: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    """Check that a repeated declaration has the same arguments as the existing queue.

    `kind` is the queue type. Raises `AmqpError` 406.
    """
    for key in sorted(set(ours) | set(theirs)):
        current, received = ours.get(key), theirs.get(key)
        if current != received and not (
            key == "x-queue-type" and kind == _CLASSIC and received in (None, _CLASSIC)
        ):
            raise _inequivalent(key, "queue", name, received, current)


def _inequivalent(what: str, kind: str, name: str, received: object, current: object) -> AmqpError:
    text = (
        f"inequivalent arg '{what}' for {kind} '{name}' in vhost '/': received {_shown(received)}"
        f" but current is {_shown(current)}"
    )
    return AmqpError(406, f"PRECONDITION_FAILED - {text}")


def _shown(value: object) -> str:
    return (
        "none" if value is None else f"'{str(value).lower() if isinstance(value, bool) else value}'"
    )


def _invalid(argument: str, name: str, why: str = "") -> AmqpError:
    return AmqpError(
        406, f"PRECONDITION_FAILED - invalid arg '{argument}' for queue '{name}' in vhost '/'{why}"
    )

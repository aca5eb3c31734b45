"""What a ``queue.declare`` may say in its arguments
(https://www.rabbitmq.com/docs/queues#optional-arguments), and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtprov.amqp.codec import SHORT_STRING
from rtprov.errors import AmqpError

_CLASSIC, _QUORUM, _STREAM = "classic", "quorum", "stream"

# The argument's type, and the types of queues that take it. RabbitMQ knows more; what is not here
# is answered with 540, never passed over.
_KNOWN: dict[str, tuple[type, tuple[str, ...]]] = {
    "x-queue-type": (str, (_CLASSIC, _QUORUM, _STREAM)),
    "x-single-active-consumer": (bool, (_CLASSIC, _QUORUM)),
    "x-dead-letter-exchange": (str, (_CLASSIC, _QUORUM)),
    "x-dead-letter-routing-key": (str, (_CLASSIC, _QUORUM)),
    "x-delivery-limit": (int, (_QUORUM,)),
    "x-max-age": (str, (_STREAM,)),
    "x-stream-max-segment-size-bytes": (int, (_STREAM,)),
    # refused by quorum queues and streams, not implemented for classic ones
    "x-max-priority": (int, ()),
}


def queue_kind(name: str, arguments: Mapping[str, Any]) -> str:
    """The type of queue that `arguments` ask for. Raises `AmqpError`: 406 where they make no sense,
    540 where we do not know them.
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
    """Quorum queues and streams are durable and shared, and stay. Raises `AmqpError` 406."""
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
    """Whoever declares again what is there must say the same: `ours` is what it has, `theirs` what
    is said. Raises `AmqpError` 406.
    """
    for what, current in ours.items():
        if theirs[what] != current:
            raise _inequivalent(what, kind, name, theirs[what], current)


def check_equivalent_arguments(
    name: str, kind: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    """The same for the arguments of a queue of this type."""
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

"""What front ends ask replicas beyond a plain status: all about tasks, and to be told when they end. JSON ⇄ model, as in `rtprov.wire`.

An `Inquiry` or a `Listing` is answered once, with the tasks that are known; a `Watch` with any number of messages that tell which of its
tasks have ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rtprov.errors import UndecodableMessage
from rtprov.model import Details, State
from rtprov.wire import VERSION


class Inquiry(msgspec.Struct, tag_field="kind", tag="inquiry", frozen=True):
    """About one task, of this equipment where it is given. With `barrier` the replica is to pass its barrier first."""

    task: str
    equipment: str | None
    barrier: bool
    v: int = VERSION


class Listing(msgspec.Struct, tag_field="kind", tag="listing", frozen=True):
    """About a device's tasks: at most `limit`, newest first, those before the task `before` if it is given. Always behind the barrier."""

    equipment: str
    before: str | None
    limit: int
    v: int = VERSION


class Watch(msgspec.Struct, tag_field="kind", tag="watch", frozen=True):
    """About the end of these (task id, equipment id) pairs, for `wait` seconds."""

    tasks: list[tuple[str, str]]
    wait: float
    v: int = VERSION


class _Known(msgspec.Struct, tag_field="kind", tag="known"):
    tasks: list[Details]
    v: int = VERSION


class _Ended(msgspec.Struct, tag_field="kind", tag="ended"):
    """Places in the watch's batch, and the final states."""

    tasks: list[tuple[int, State]]
    v: int = VERSION


encode = msgspec.json.Encoder().encode
_decode_question = msgspec.json.Decoder(Inquiry | Listing | Watch).decode
_decode_known = msgspec.json.Decoder(_Known).decode
_decode_ended = msgspec.json.Decoder(_Ended).decode

_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_question(body: bytes) -> Inquiry | Listing | Watch:
    """Raises `UndecodableMessage`."""
    try:
        question: Inquiry | Listing | Watch = _decode_question(body)
    except _MALFORMED:
        raise UndecodableMessage("not a question about tasks") from None
    return question


def encode_known(tasks: Sequence[Details]) -> bytes:
    """The answer to an `Inquiry`, of one task or none, and to a `Listing`."""
    return encode(_Known(list(tasks)))


def decode_known(body: bytes) -> list[Details]:
    """Raises `UndecodableMessage`."""
    try:
        return _decode_known(body).tasks
    except _MALFORMED:
        raise UndecodableMessage("not an answer about tasks") from None


def encode_ended(tasks: Sequence[tuple[int, State]]) -> bytes:
    """One answer to a `Watch`."""
    return encode(_Ended(list(tasks)))


def decode_ended(body: bytes) -> list[tuple[int, State]]:
    """Raises `UndecodableMessage`."""
    try:
        tasks = _decode_ended(body).tasks
    except _MALFORMED:
        raise UndecodableMessage("not a report of ended tasks") from None
    if any(not state.final for _, state in tasks):
        raise UndecodableMessage("not a report of ended tasks: a state is not final")
    return tasks

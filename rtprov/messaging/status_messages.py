"""Encode and decode status requests and their replies."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from rtprov.errors import UndecodableMessage
from rtprov.messaging.format import (
    MALFORMED,
    VERSION,
    Tagged,
    undecodable,
)
from rtprov.model import (
    State,
)


class _StatusRequest(Tagged, tag="status"):
    tasks: list[tuple[str, str]]
    barrier: bool
    v: int = VERSION


class _StatusReply(Tagged, tag="states"):
    """The states of a batch, in its order.

    A cancelled task is FAILED in `states`, because earlier front ends do not know CANCELLED; its
    index is in `cancelled`.
    """

    states: list[State | None]
    v: int = VERSION
    cancelled: list[int] | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode
_decode_status_request = msgspec.json.Decoder(_StatusRequest).decode
_decode_status_reply = msgspec.json.Decoder(_StatusReply).decode


def encode_status_request(pairs: Sequence[tuple[str, str]], *, barrier: bool) -> bytes:
    """Return the request for the states of (task id, equipment id) pairs.

    With `barrier`, a replica passes its barrier before it answers.
    """
    return _encode(_StatusRequest(list(pairs), barrier))


def decode_status_request(body: bytes) -> tuple[list[tuple[str, str]], bool]:
    """Return the pairs, and whether a barrier is requested. Raises `UndecodableMessage`."""
    try:
        message = _decode_status_request(body)
    except MALFORMED as error:
        raise undecodable("a status request", error) from None
    return message.tasks, message.barrier


def encode_status_reply(states: Sequence[State | None]) -> bytes:
    """Return the reply to a batch, in its order; None stands for an unknown task."""
    reply = _StatusReply([State.FAILED if state is State.CANCELLED else state for state in states])
    if State.CANCELLED in states:
        reply.cancelled = [index for index, state in enumerate(states) if state is State.CANCELLED]
    return _encode(reply)


def decode_status_reply(body: bytes) -> list[State | None]:
    """Return the states of a batch, in its order. Raises `UndecodableMessage`."""
    try:
        reply = _decode_status_reply(body)
    except MALFORMED as error:
        raise undecodable("a status reply", error) from None
    for index in reply.cancelled or ():
        if not 0 <= index < len(reply.states):
            raise UndecodableMessage("not a status reply: wrong at `$.cancelled`")
        reply.states[index] = State.CANCELLED
    return reply.states

"""Limits that are far away in life, turned so low that a few tasks reach them: pages, windows, batches, renewals, dead letters."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from rtprov import frontend, journal, status, worker
from rtprov.amqp import topology
from rtprov.broker import database, queues, sqlite, streams
from rtprov.tap import assembly

Knob = tuple[tuple[ModuleType, str, float], ...]

DELIVERY_LIMIT = "few deliveries"

KNOBS: dict[str, Knob] = {
    "short queues": ((queues, "RESIDENT_MESSAGES", 2),),
    "short pages": ((database, "PAGE_MESSAGES", 2),),
    "short tails": ((streams, "TAIL_MESSAGES", 3),),
    "small windows": ((assembly, "WAITING_ROOM", 0),),
    "few unconfirmed": ((assembly, "MAX_UNCONFIRMED", 2),),
    "little memory": ((frontend, "MAX_REMEMBERED", 1),),
    "small batches": ((status, "MAX_BATCH", 1), (status, "PREFETCH", 1)),
    "little credit": ((journal, "PREFETCH", 4), (journal, "ACK_EVERY", 2)),
    "settled often": ((journal, "SETTLE_EVERY_S", 2.0),),
    "soon congested": ((sqlite, "CONGESTED_BYTES", 2000),),
    "renewed often": ((worker, "RENEW_AFTER_S", 8.0), (worker, "RENEW_LOOK_S", 2.0)),
    DELIVERY_LIMIT: ((topology, "DELIVERY_LIMIT", 3),),
}


def draw(rng: random.Random) -> tuple[str, ...]:
    """Which knobs a seed turns: none, as often as not."""
    if rng.random() < 0.5:
        return ()
    return tuple(rng.sample(list(KNOBS), rng.randint(1, 4)))


@contextmanager
def turned(names: tuple[str, ...]) -> Iterator[None]:
    """Turn these for a while."""
    turns = [turn for name in names for turn in KNOBS[name]]
    before = [(module, name, getattr(module, name)) for module, name, _ in turns]
    try:
        for module, name, value in turns:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)

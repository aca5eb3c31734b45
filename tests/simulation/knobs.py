"""The knobs: limits that real systems seldom reach, set so low that a few tasks reach them. They
concern pages, windows, batches, renewals and dead letters.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import ModuleType
from typing import Any

from rtprov.broker.engine import backlog
from rtprov.broker.engine import stream as streams
from rtprov.broker.engine.stream import Stream
from rtprov.broker.storage import database, sqlite
from rtprov.frontend import final_states as finals
from rtprov.journal import shard_journal as journal
from rtprov.messaging import topology
from rtprov.queries import status
from rtprov.worker import read_ahead, renewals
from rtprov.worker import service as assembly
from tests.simulation.clock import WorldClock

Knob = tuple[tuple[ModuleType, str, float], ...]

DELIVERY_LIMIT = "few deliveries"
LATE_STREAMS = "late streams"  # confirmed messages become readable a little later, as in RabbitMQ
LONG_JOURNALS = "long journals"  # replaying one takes seconds
READING_S = 0.5
LATENESS_S = (0.05, 2.0)

KNOBS: dict[str, Knob] = {
    "short queues": ((backlog, "RESIDENT_MESSAGES", 2), (database, "PAGE_MESSAGES", 2)),
    LONG_JOURNALS: (
        (streams, "TAIL_MESSAGES", 3),
        (database, "PAGE_MESSAGES", 2),
        (journal, "PREFETCH", 4),
        (journal, "ACK_EVERY", 2),
    ),
    LATE_STREAMS: (),
    "small windows": ((assembly, "WAITING_ROOM", 0),),
    "narrow windows": ((assembly, "MAX_WINDOW", 2), (read_ahead, "LOOK_AFTER_S", 0.02)),
    "few unconfirmed": ((assembly, "MAX_UNCONFIRMED", 2),),
    "little memory": ((finals, "MAX_REMEMBERED", 1),),
    "small batches": ((status, "MAX_BATCH", 1), (status, "PREFETCH", 1)),
    "settled often": ((journal, "SETTLE_EVERY_S", 2.0),),
    "soon congested": ((sqlite, "CONGESTED_BYTES", 2000),),
    "renewed often": ((renewals, "RENEW_AFTER_S", 8.0), (renewals, "RENEW_LOOK_S", 2.0)),
    DELIVERY_LIMIT: ((topology, "DELIVERY_LIMIT", 3),),
}


def draw(rng: random.Random) -> tuple[str, ...]:
    """Choose the knobs of a seed. Half of the seeds have none."""
    if rng.random() < 0.5:
        return ()
    return tuple(rng.sample(list(KNOBS), rng.randint(1, 4)))


@contextmanager
def turned(names: tuple[str, ...], clock: WorldClock, rng: random.Random) -> Iterator[None]:
    """Apply these knobs within the context."""
    with _limits(names), _late_streams(clock, rng) if LATE_STREAMS in names else nullcontext():
        yield


@contextmanager
def _late_streams(clock: WorldClock, rng: random.Random) -> Iterator[None]:
    show, longest_s = Stream.show, rng.choice(LATENESS_S)

    def show_late(self: Stream, upto: int) -> None:
        clock.call_later(None, rng.random() * longest_s, show, self, upto)

    with patched(Stream, "show", show_late):
        yield


@contextmanager
def patched(target: Any, name: str, value: Any) -> Iterator[None]:
    """Replace attribute `name` of `target` within the context."""
    before = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, before)


@contextmanager
def _limits(names: tuple[str, ...]) -> Iterator[None]:
    turns = [turn for name in names for turn in KNOBS[name]]
    with ExitStack() as stack:
        for module, name, value in turns:
            stack.enter_context(patched(module, name, value))
        yield

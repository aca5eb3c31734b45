"""Where the broker keeps what must survive it. The engine tells a storage what happens; the storage
writes it down, and gives messages back page by page, after a restart too.

All that happens in one turn of the reactor is one transaction: the engine records operations as it
goes, the server calls `commit` once at the end of the turn, and confirms leave only when its
Deferred has fired."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from rtprov.broker.messages import Message

PAGE_MESSAGES = 1000
PAGE_BYTES = 4 * 1024 * 1024


@attrs.define  # not frozen, which takes longer to make
class Record:
    """A message as it is stored in one queue or stream.

    `position` orders it there (a stream's offset) and is never given again. `time` is when it came,
    `expires_at` when it expires, both in seconds since the epoch. `deliveries` counts how often it
    was handed out where that is more than once: once is what a queue's `handed_out` tells."""

    position: int
    time: float
    message: Message
    expires_at: float | None = None
    deliveries: int = 0

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return self.message.size


@attrs.frozen
class StoredQueue:
    """A durable queue or stream as the last run left it, without its messages: see `Storage.load`.

    `first` and `last` are the positions of its oldest and newest message (`last` is `first` - 1
    where there is none); messages up to `handed_out` may have been delivered before."""

    name: str
    arguments: Mapping[str, Any]
    auto_delete: bool
    bindings: tuple[tuple[str, str], ...]  # exchange, routing key
    count: int
    first: int
    last: int
    handed_out: int


@attrs.frozen
class StoredExchange:
    """A durable exchange."""

    name: str
    kind: str
    auto_delete: bool
    internal: bool


@attrs.frozen
class Recovered:
    """What the last run left of durable exchanges and queues."""

    exchanges: Sequence[StoredExchange]
    queues: Sequence[StoredQueue]


class Storage(Protocol):
    """What the engine tells, of durable things only. A queue is told before its messages, and never
    again once it is deleted.

    `on_trouble` is called with a reason when nothing can be written at present, and with None when
    it can again; meanwhile nothing is lost: commits wait."""

    on_trouble: Callable[[str | None], None]

    @property
    def congested(self) -> bool:
        """Whether so much waits to be written that whoever sends more should wait."""

    def recover(self) -> Recovered:
        """Called once, before anything else."""

    def exchange_declared(self, exchange: StoredExchange) -> None: ...

    def exchange_deleted(self, name: str) -> None: ...

    def queue_declared(
        self, name: str, arguments: Mapping[str, Any], auto_delete: bool
    ) -> None: ...

    def queue_deleted(self, name: str) -> None: ...

    def bound(self, queue: str, exchange: str, routing_key: str) -> None: ...

    def unbound(self, queue: str, exchange: str, routing_key: str) -> None: ...

    def added(self, queue: str, record: Record) -> None:
        """A message was put into a queue, or appended to a stream. Positions only ever grow."""

    def removed(self, queue: str, position: int) -> None:
        """A message is settled."""

    def purged(self, queue: str, first: int, last: int) -> None:
        """All messages at these positions are gone."""

    def handed_out(self, queue: str, position: int) -> None:
        """The messages up to this position may have been delivered."""

    def handed_out_again(self, queue: str, position: int, deliveries: int) -> None:
        """A message that had come back may have been delivered again: for the `deliveries`th time,
        counted from 1.
        """

    def load(self, queue: str, after: int, upto: int) -> Deferred[Sequence[Record]]:
        """Fire with the next messages at positions over `after` and up to `upto`, in order: at most
        `PAGE_MESSAGES`, of about `PAGE_BYTES`.

        What was told before is seen. An empty answer means that there is none. Where the disk
        cannot be read for a while, it takes as long."""

    def position_at(self, stream: str, time: float) -> Deferred[int | None]:
        """Fire with the position of the first message that came at `time` or later; None where
        there is none.
        """

    def trim(self, stream: str, before: float) -> Deferred[int | None]:
        """Forget messages that came before this time, but never the newest; fire with the first
        position left, None where none is.
        """

    def commit(self) -> Deferred[None]:
        """Make all that was told so far safe; fire when it is."""

    def close(self) -> Deferred[None]:
        """Write what is left, and let go of everything; nothing may be told afterwards."""


def nobody(_: str | None) -> None:
    """Hears of no trouble."""

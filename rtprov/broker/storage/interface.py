"""The interface of the broker's storage, which keeps what must survive a restart.

The engine calls the storage for each change of a durable exchange, queue or message. The storage
returns messages page by page, also those from before a restart.

All changes in one turn of the reactor are one transaction. The server calls `Storage.commit` once
at the end of the turn, and sends publisher confirms only after its Deferred has fired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from rtprov.broker.messages import Message

PAGE_MESSAGES = 1000
PAGE_BYTES = 4 * 1024 * 1024


@attrs.define  # not frozen, because a frozen class takes longer to make
class Record:
    """A message as stored in one queue or stream.

    - `position`: orders the queue or stream, and is never used again. It is a stream's offset.
    - `time`: when the message was published, in seconds since the epoch.
    - `expires_at`: when it expires, in seconds since the epoch.
    - `deliveries`: how many times it was delivered, if more than once. A first delivery is recorded
      only in the queue's `handed_out`.
    """

    position: int
    time: float
    message: Message
    expires_at: float | None = None
    deliveries: int = 0

    @property
    def size(self) -> int:
        """The size of the message in bytes (an estimate)."""
        return self.message.size


@attrs.frozen
class StoredQueue:
    """A durable queue or stream found in the storage, without its messages (see `Storage.load`).

    `first` and `last` are the positions of the oldest and newest message; `last` is `first` - 1 if
    there are none. Messages up to the position `handed_out` may have been delivered before.
    """

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
    """A durable exchange found in the storage."""

    name: str
    kind: str
    auto_delete: bool
    internal: bool


@attrs.frozen
class Recovered:
    """The durable exchanges and queues found in the storage."""

    exchanges: Sequence[StoredExchange]
    queues: Sequence[StoredQueue]


class Storage(Protocol):
    """Stores durable exchanges, queues, bindings and messages.

    The engine calls these methods only for durable objects. It declares a queue before it adds
    messages, and does not use a queue's name after it was deleted, until it is declared again.

    `on_trouble` is called with the reason when the storage cannot write, and with None when it can
    write again. Nothing is lost in between: commits wait.
    """

    on_trouble: Callable[[str | None], None]

    @property
    def congested(self) -> bool:
        """Whether so much data waits to be written that publishers should wait."""

    def recover(self) -> Recovered:
        """Return the durable exchanges and queues. Called once, before all other methods."""

    def exchange_declared(self, exchange: StoredExchange) -> None: ...

    def exchange_deleted(self, name: str) -> None: ...

    def queue_declared(
        self, name: str, arguments: Mapping[str, Any], auto_delete: bool
    ) -> None: ...

    def queue_deleted(self, name: str) -> None: ...

    def bound(self, queue: str, exchange: str, routing_key: str) -> None: ...

    def unbound(self, queue: str, exchange: str, routing_key: str) -> None: ...

    def added(self, queue: str, record: Record) -> None:
        """Record a message published to a queue or stream. Positions only increase."""

    def removed(self, queue: str, position: int) -> None:
        """Record that a message has left a queue."""

    def purged(self, queue: str, first: int, last: int) -> None:
        """Record that all messages from position `first` to `last` have left a queue."""

    def handed_out(self, queue: str, position: int) -> None:
        """Record that messages up to this position may have been delivered."""

    def handed_out_again(self, queue: str, position: int, deliveries: int) -> None:
        """Record that a returned message may have been delivered again.

        `deliveries` is the number of its deliveries, including this one.
        """

    def load(self, queue: str, after: int, upto: int) -> Deferred[Sequence[Record]]:
        """Load the next messages with positions greater than `after` and up to `upto`.

        The Deferred fires with at most `PAGE_MESSAGES` records of about `PAGE_BYTES` in all, in
        order. It fires with an empty list if there are none. All changes recorded before this call
        are taken into account. If the disk cannot be read, the Deferred waits until it can.
        """

    def position_at(self, stream: str, time: float) -> Deferred[int | None]:
        """Find the first message published at `time` or later (seconds since the epoch).

        The Deferred fires with its position, or None if there is none.
        """

    def trim(self, stream: str, before: float) -> Deferred[int | None]:
        """Delete messages published before this time, except the newest message.

        The Deferred fires with the first remaining position, or None if the stream is empty.
        """

    def commit(self) -> Deferred[None]:
        """Write all changes recorded so far. The Deferred fires once they are on disk.

        That may take as long as the disk cannot be written. It never fires after `close`.
        """

    def close(self) -> Deferred[None]:
        """Write the remaining changes and close the storage. It cannot be used afterwards.

        The Deferred does not fire while the disk cannot be written.
        """


def ignore_trouble(_: str | None) -> None:
    """Do nothing: the default `on_trouble`."""

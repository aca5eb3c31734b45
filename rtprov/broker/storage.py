"""Where the broker keeps what must survive it. The engine holds the state; a storage writes it down, and gives it back at the start.

All that happens in one turn of the reactor is one transaction: the engine records operations as it goes, the server calls `commit` once at
the end of the turn, and confirms leave only when its Deferred has fired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from twisted.internet.defer import Deferred, succeed

if TYPE_CHECKING:
    from rtprov.broker.messages import Message


@attrs.frozen
class StoredQueue:
    """A durable queue or stream with its messages, as (position or offset, time, message) in order."""

    name: str
    arguments: Mapping[str, Any]
    bindings: tuple[tuple[str, str], ...]  # exchange, routing key
    messages: Iterable[tuple[int, float, Message]]


class Storage(Protocol):
    """What the engine tells. Only durable things and persistent messages are told. Times are in seconds of the broker's clock."""

    def recover(self) -> tuple[Mapping[str, str], Iterable[StoredQueue]]:
        """The durable exchanges (name to type) and queues of the last run."""

    def exchange_declared(self, name: str, kind: str) -> None: ...

    def exchange_deleted(self, name: str) -> None: ...

    def queue_declared(self, name: str, arguments: Mapping[str, Any]) -> None: ...

    def queue_deleted(self, name: str) -> None: ...

    def bound(self, queue: str, exchange: str, routing_key: str) -> None: ...

    def unbound(self, queue: str, exchange: str, routing_key: str) -> None: ...

    def added(self, queue: str, position: int, now: float, message: Message) -> None:
        """A message was put into a queue, or appended to a stream."""

    def removed(self, queue: str, position: int) -> None:
        """A message is settled."""

    def truncated(self, stream: str, first_offset: int) -> None:
        """A stream has forgotten everything before this offset."""

    def commit(self) -> Deferred[None]:
        """Make all that was told so far safe; fire when it is."""


class MemoryStorage:
    """Keeps nothing: the broker's state dies with its process."""

    def recover(self) -> tuple[Mapping[str, str], Iterable[StoredQueue]]:
        return {}, ()

    def exchange_declared(self, name: str, kind: str) -> None: ...

    def exchange_deleted(self, name: str) -> None: ...

    def queue_declared(self, name: str, arguments: Mapping[str, Any]) -> None: ...

    def queue_deleted(self, name: str) -> None: ...

    def bound(self, queue: str, exchange: str, routing_key: str) -> None: ...

    def unbound(self, queue: str, exchange: str, routing_key: str) -> None: ...

    def added(self, queue: str, position: int, now: float, message: Message) -> None: ...

    def removed(self, queue: str, position: int) -> None: ...

    def truncated(self, stream: str, first_offset: int) -> None: ...

    def commit(self) -> Deferred[None]:
        return succeed(None)

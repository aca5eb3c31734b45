"""Queues: messages in order, handed out to consumers, and taken back in the same order.

Classic and quorum queues differ only in what they accept and in the delivery limit; on one machine both are the same thing.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import attrs

from rtprov.broker.messages import Entry, Message, expiration_s
from rtprov.broker.storage import Storage


class Consumer(Protocol):
    """Whoever consumes a queue: a channel's consumer."""

    @property
    def ready(self) -> bool:
        """Whether it takes one more message now."""

    def deliver(self, entry: Entry, header: bytes) -> None:
        """Hand a message out."""

    def cancelled(self) -> None:
        """The queue is gone."""


DeadLetter = Callable[["Queue", Message, str, int], None]
"""Called with the queue, the message, the reason (``rejected``, ``expired``, ``delivery_limit``) and its deliveries."""


@attrs.define(eq=False)
class Queue:
    """One queue. `owner` is the connection that an exclusive queue belongs to."""

    name: str
    durable: bool
    auto_delete: bool
    owner: object | None
    arguments: Mapping[str, Any]
    storage: Storage
    now: Callable[[], float]
    dead_letter: DeadLetter
    kind: str = "classic"
    single_active: bool = False
    delivery_limit: int | None = None
    consumers: list[Consumer] = attrs.Factory(list)
    _ready: deque[Entry] = attrs.Factory(deque)
    _returned: list[tuple[int, Entry]] = attrs.Factory(list)  # a heap; all of it comes before all of _ready
    _next_position: int = 1
    _turn: int = 0
    exclusive_consumer: bool = False

    @property
    def message_count(self) -> int:
        """Messages ready to be handed out."""
        return len(self._ready) + len(self._returned)

    def publish(self, message: Message) -> None:
        """Put a message at the end."""
        expires_s = expiration_s(message.properties)
        entry = Entry(self._next_position, message, None if expires_s is None else self.now() + expires_s)
        self._next_position += 1
        if self.durable and message.persistent:
            self.storage.added(self.name, entry.position, self.now(), message)
        self._ready.append(entry)
        self.pump()

    def restore(self, position: int, message: Message) -> None:
        """Take back a stored message at the start; it may have been handed out before the stop."""
        self._ready.append(Entry(position, message, redelivered=True))
        self._next_position = position + 1

    # Handing out.

    def pump(self) -> None:
        """Hand out messages for as long as there are any and a consumer takes them."""
        while self.message_count:
            consumer = self._next_consumer()
            if consumer is None:
                return
            entry = self.pop()
            if entry is not None:
                consumer.deliver(entry, self.header_for(entry))

    def _next_consumer(self) -> Consumer | None:
        if self.single_active:
            return self.consumers[0] if self.consumers and self.consumers[0].ready else None
        for _ in range(len(self.consumers)):
            self._turn = (self._turn + 1) % len(self.consumers)
            consumer = self.consumers[self._turn]
            if consumer.ready:
                return consumer
        return None

    def pop(self) -> Entry | None:
        """The first message that has not expired, or None; it counts as handed out."""
        while self._returned or self._ready:
            entry = heapq.heappop(self._returned)[1] if self._returned else self._ready.popleft()
            if entry.expires_at is None or entry.expires_at > self.now():
                return entry
            self._drop(entry, "expired")
        return None

    def header_for(self, entry: Entry) -> bytes:
        """The content header to hand an entry out with; quorum queues tell how often it came back."""
        if self.kind == "quorum" and entry.deliveries:
            return entry.message.with_headers({"x-delivery-count": entry.deliveries})
        return entry.message.header

    # Settling.

    def ack(self, entry: Entry) -> None:
        """The consumer is done with it."""
        self._forget(entry)

    def reject(self, entry: Entry) -> None:
        """The consumer does not want it, nor is anybody else to have it."""
        self._drop(entry, "rejected")

    def requeue(self, entries: Iterable[Entry]) -> None:
        """Take back what was handed out, to its old place."""
        for entry in entries:
            entry.redelivered = True
            entry.deliveries += 1
            if self.delivery_limit is not None and entry.deliveries > self.delivery_limit:
                self._drop(entry, "delivery_limit")
            else:
                heapq.heappush(self._returned, (entry.position, entry))
        self.pump()

    def purge(self) -> int:
        """Drop all that is not handed out; return how many."""
        dropped = [*(entry for _, entry in self._returned), *self._ready]
        self._returned.clear()
        self._ready.clear()
        for entry in dropped:
            self._forget(entry)
        return len(dropped)

    def _drop(self, entry: Entry, reason: str) -> None:
        self._forget(entry)
        self.dead_letter(self, entry.message, reason, entry.deliveries)

    def _forget(self, entry: Entry) -> None:
        if self.durable and entry.message.persistent:
            self.storage.removed(self.name, entry.position)

    # Consumers.

    def add_consumer(self, consumer: Consumer, arguments: Mapping[str, Any]) -> None:
        """From now on it gets messages; with a single active consumer, once those before it are gone."""
        self.consumers.append(consumer)
        self.pump()

    def remove_consumer(self, consumer: Consumer) -> None:
        """It gets no more; what it holds comes back by `requeue` or `ack`."""
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self.exclusive_consumer = False

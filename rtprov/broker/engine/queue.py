"""Classic and quorum queues: deliver messages to consumers in order, and take them back.

The two types differ in the arguments they accept, in what they store, in the delivery limit, and in
the order of messages that are returned at different times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from rtprov.broker.engine.backlog import Backlog
from rtprov.broker.engine.dead_lettering import DELIVERY_LIMIT, EXPIRED, REJECTED
from rtprov.broker.engine.memory_alarm import Memory
from rtprov.broker.messages import Entry, Message, expiration_s
from rtprov.broker.storage.interface import Record, Storage, StoredQueue

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class Consumer(Protocol):
    """A consumer of a queue or stream, made with ``basic.consume``."""

    @property
    def ready(self) -> bool:
        """Whether the consumer can receive one more message now."""

    def deliver(self, entry: Entry, header: bytes) -> None:
        """Send a message to the consumer; `header` is the payload of its content header."""

    def cancelled(self) -> None:
        """Handle the deletion of the queue, or that a stream cannot be read."""


DeadLetter = Callable[["Queue", Message, str], None]
"""Called with the queue, the message, and a reason from `rtprov.broker.engine.dead_lettering`."""


@attrs.define(eq=False)
class Queue:
    """One classic or quorum queue.

    - `owner`: the connection of an exclusive queue, otherwise None.
    - `now`: returns seconds since the epoch.
    - `dead_letter`: called with each message that is dropped.
    - `head_expires`: called with the time at which the first message expires (None if never), each
      time that changes.
    - `after_work`: called to commit work that was not caused by a client.
    - `delivery_limit`: a message that is returned more often is dropped; None for no limit.
    """

    name: str
    durable: bool
    auto_delete: bool
    owner: object | None
    arguments: Mapping[str, Any]
    storage: Storage
    memory: Memory
    now: Callable[[], float]
    dead_letter: DeadLetter
    head_expires: Callable[[Queue, float | None], None]
    after_work: Callable[[], None]
    kind: str = "classic"
    single_active: bool = False
    delivery_limit: int | None = None
    consumers: list[Consumer] = attrs.Factory(list)
    exclusive_consumer: bool = False
    deleted: bool = False
    _returns: int = 0
    _head_expires_at: float | None = None
    _next_position: int = 1
    _handed_out: int = 0
    _backlog: Backlog = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._backlog = Backlog(self.name, self.storage, self.memory, self._on_page)

    @property
    def message_count(self) -> int:
        """The number of messages that wait for delivery."""
        return len(self._backlog)

    def publish(self, message: Message) -> None:
        """Add a message at the end.

        A consumer that waits for a message gets it, even if it expires at once.
        """
        expires_s = expiration_s(message.properties)
        expires_at = None if expires_s is None else self.now() + expires_s
        # A quorum queue stores all messages, as in RabbitMQ.
        stored = (
            self.durable and self.owner is None and (self.kind == "quorum" or message.persistent)
        )
        entry = Entry(self._next_position, message, stored=stored)
        self._put(entry, expires_at)
        # Otherwise there is no consumer, and no page to load.
        if self.consumers or self._backlog.head() is None:
            self.pump()
        if expires_at is not None:
            entry.expires_at = expires_at
            self._look_at_head()

    def _put(self, entry: Entry, expires_at: float | None) -> None:
        """Add an entry at the end. It must have the next position."""
        self._next_position += 1
        if entry.stored:
            self.storage.added(
                self.name,
                Record(entry.position, self.now(), entry.message, expires_at, entry.deliveries),
            )
        self._backlog.put(entry)

    def restore(self, stored: StoredQueue) -> None:
        """Restore the state of the queue from the storage, at the start of the broker."""
        self._backlog.restore(stored)
        self._handed_out = max(0, stored.handed_out)
        self._next_position = max(stored.last, self._handed_out) + 1

    # Delivering.

    def pump(self) -> None:
        """Deliver messages while there are any and a consumer is ready."""
        while (entry := self._live_head()) is not None:
            consumer = self._next_consumer()
            if consumer is None:
                return
            self._take_head()
            self._note_handed_out(entry)
            consumer.deliver(entry, self.header_for(entry))

    def _next_consumer(self) -> Consumer | None:
        if self.single_active:
            return self.consumers[0] if self.consumers and self.consumers[0].ready else None
        for place, consumer in enumerate(self.consumers):
            if consumer.ready:
                self.consumers.append(self.consumers.pop(place))  # round robin
                return consumer
        return None

    def pop(self) -> Entry | None:
        """Remove and return the first message that can still be delivered, for ``basic.get``.

        Return None if there is none, or if its page is still being loaded; see `when_loaded`.
        """
        entry = self._live_head()
        if entry is not None:
            self._take_head()
            self._note_handed_out(entry)
        return entry

    def expire(self) -> None:
        """Drop expired messages from the head, up to the first that has not expired."""
        self._live_head()
        self._look_at_head()

    def _live_head(self) -> Entry | None:
        """Return the first message, after dropping those that may not be delivered any more."""
        while True:
            entry = self._backlog.head()
            if entry is None:
                if not self._backlog.load():
                    return None
                self._look_at_head()
                continue
            reason = self._undeliverable(entry)
            if reason is None:
                return entry
            self._take_head()
            self._drop(entry, reason)

    def _undeliverable(self, entry: Entry) -> str | None:
        if entry.expires_at is not None and entry.expires_at <= self.now():
            return EXPIRED
        if self.delivery_limit is not None and entry.deliveries > self.delivery_limit:
            return DELIVERY_LIMIT  # a broker restart counts as one more return
        return None

    def _take_head(self) -> None:
        self._backlog.take()
        self._look_at_head()

    def _look_at_head(self) -> None:
        head = self._backlog.head()
        expires_at = None if head is None else head.expires_at
        if expires_at != self._head_expires_at:
            self._head_expires_at = expires_at
            self.head_expires(self, expires_at)

    def _note_handed_out(self, entry: Entry) -> None:
        if not entry.stored:
            return
        if entry.position > self._handed_out:
            self._handed_out = entry.position
            self.storage.handed_out(self.name, entry.position)
        if entry.deliveries:
            self.storage.handed_out_again(self.name, entry.position, entry.deliveries + 1)

    def header_for(self, entry: Entry) -> bytes:
        """Return the content header for the delivery of an entry.

        A quorum queue adds the number of earlier deliveries as ``x-delivery-count``.
        """
        if self.kind == "quorum" and entry.deliveries:
            return entry.message.with_number("x-delivery-count", entry.deliveries)
        return entry.message.header

    def when_loaded(self) -> Deferred[None] | None:
        """Return a Deferred that fires once the page being loaded is there, or None if none is."""
        return self._backlog.loading

    def _on_page(self) -> None:
        if not self.deleted:
            self._look_at_head()
            self.pump()
            self.after_work()

    # Settling.

    def ack(self, entry: Entry) -> None:
        """Remove an acknowledged message."""
        self._forget(entry)

    def reject(self, entry: Entry) -> None:
        """Drop a message that its consumer rejected without requeueing, and dead-letter it."""
        self._drop(entry, REJECTED)

    def requeue(self, entries: Iterable[Entry], *, lost: bool) -> None:
        """Take back delivered messages, in their order.

        `lost` is True if the channel of the consumer was closed, and False if the client returned
        the messages.

        - Classic queue: a message goes back to its old place.
        - Quorum queue: a message goes after those that were returned earlier, and before the rest.
          If there is no delivery limit and `lost` is False, it goes to the end of the queue.
        """
        for entry in entries:
            entry.redelivered = True
            entry.deliveries += 1
            if self.delivery_limit is not None and entry.deliveries > self.delivery_limit:
                self._drop(entry, DELIVERY_LIMIT)
            elif self.kind == "quorum" and self.delivery_limit is None and not lost:
                self._forget(entry)
                entry.position = self._next_position
                self._put(entry, entry.expires_at)
            else:
                self._returns += 1
                self._backlog.put_back(
                    entry, self._returns if self.kind == "quorum" else entry.position
                )
        self._look_at_head()
        self.pump()

    def purge(self) -> int:
        """Drop all messages that wait for delivery. Return their number."""
        count = self.message_count
        resident, paged = self._backlog.purge()
        for entry in resident:
            self._forget(entry)
        if paged is not None and not self.deleted:
            self.storage.purged(self.name, *paged)
        self._look_at_head()
        return count

    def delete(self) -> None:
        """Delete the queue with its messages. The caller deletes it in the storage."""
        self.deleted = True
        self.purge()

    def _drop(self, entry: Entry, reason: str) -> None:
        # In this order: a crash in between may repeat a dead letter, but does not lose one.
        self.dead_letter(self, entry.message, reason)
        self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if entry.stored and not self.deleted:
            self.storage.removed(self.name, entry.position)

    # Consumers.

    def add_consumer(self, consumer: Consumer, arguments: Mapping[str, Any]) -> None:
        """Add a consumer and deliver messages to it.

        With a single active consumer, it gets messages once all consumers before it have left.
        """
        self.consumers.append(consumer)
        self.pump()

    def remove_consumer(self, consumer: Consumer) -> None:
        """Remove a consumer. Its unsettled messages are settled later by `requeue` or `ack`."""
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self.exclusive_consumer = False

"""Queues: messages handed out to consumers in order, and taken back.

Classic and quorum queues differ in what they accept and store, in the delivery limit, and in the
order of what came back in several pieces."""

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
    """Whoever consumes a queue: a channel's consumer."""

    @property
    def ready(self) -> bool:
        """Whether it takes one more message now."""

    def deliver(self, entry: Entry, header: bytes) -> None:
        """Hand a message out."""

    def cancelled(self) -> None:
        """The queue is gone."""


DeadLetter = Callable[["Queue", Message, str], None]
"""Called with the queue, the message and the reason, as `rtprov.broker.engine.dead_lettering` has
it.
"""


@attrs.define(eq=False)
class Queue:
    """One queue. `owner` is the connection that an exclusive queue belongs to; `after_work` is
    called to commit work that no client set off.
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
    head_expires: Callable[
        [Queue, float | None], None
    ]  # told when the first message expires, None for never, whenever that changes
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
        """Messages ready to be handed out."""
        return len(self._backlog)

    def publish(self, message: Message) -> None:
        """Put a message at the end. A consumer that waits for it gets it, even if it expires at
        once.
        """
        expires_s = expiration_s(message.properties)
        expires_at = None if expires_s is None else self.now() + expires_s
        # A quorum queue keeps everything, as RabbitMQ's does.
        stored = (
            self.durable and self.owner is None and (self.kind == "quorum" or message.persistent)
        )
        entry = Entry(self._next_position, message, stored=stored)
        self._put(entry, expires_at)
        # else there is nobody to hand out to, and nothing to load
        if self.consumers or self._backlog.head() is None:
            self.pump()
        if expires_at is not None:
            entry.expires_at = expires_at
            self._look_at_head()

    def _put(self, entry: Entry, expires_at: float | None) -> None:
        """The entry has the next position: it goes to the end."""
        self._next_position += 1
        if entry.stored:
            self.storage.added(
                self.name,
                Record(entry.position, self.now(), entry.message, expires_at, entry.deliveries),
            )
        self._backlog.put(entry)

    def restore(self, stored: StoredQueue) -> None:
        """Take over what the storage has, at the start."""
        self._backlog.restore(stored)
        self._handed_out = max(0, stored.handed_out)
        self._next_position = max(stored.last, self._handed_out) + 1

    # Handing out.

    def pump(self) -> None:
        """Hand out messages for as long as there are any and a consumer takes them."""
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
                self.consumers.append(self.consumers.pop(place))  # it is the last one now
                return consumer
        return None

    def pop(self) -> Entry | None:
        """The first message that may still be delivered; it counts as handed out.

        None where there is none, or where its page is on its way: see `when_loaded`.
        """
        entry = self._live_head()
        if entry is not None:
            self._take_head()
            self._note_handed_out(entry)
        return entry

    def expire(self) -> None:
        """Drop what has expired, as far as it stands at the head: no message behind one that lives
        is looked at.
        """
        self._live_head()
        self._look_at_head()

    def _live_head(self) -> Entry | None:
        """The first message, once those that may not be delivered any more are dropped."""
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
            return DELIVERY_LIMIT  # it has come so often that the broker has been restarted
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
        """The content header to hand an entry out with; quorum queues tell how often it came
        back.
        """
        if self.kind == "quorum" and entry.deliveries:
            return entry.message.with_number("x-delivery-count", entry.deliveries)
        return entry.message.header

    def when_loaded(self) -> Deferred[None] | None:
        """What fires once the page that is on its way has come; None where none is."""
        return self._backlog.loading

    def _on_page(self) -> None:
        if not self.deleted:
            self._look_at_head()
            self.pump()
            self.after_work()

    # Settling.

    def ack(self, entry: Entry) -> None:
        """The consumer is done with it."""
        self._forget(entry)

    def reject(self, entry: Entry) -> None:
        """The consumer does not want it, nor is anybody else to have it."""
        self._drop(entry, REJECTED)

    def requeue(self, entries: Iterable[Entry], *, lost: bool) -> None:
        """Take back what was handed out, in its order; `lost` tells that its consumer is gone, else
        it was returned.

        It takes its old place again. In a quorum queue it stands behind all that came back before,
        ahead of the rest; where that has no delivery limit, what was returned goes to the end."""
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
        """Drop all that is not handed out; return how many."""
        count = self.message_count
        resident, paged = self._backlog.purge()
        for entry in resident:
            self._forget(entry)
        if paged is not None and not self.deleted:
            self.storage.purged(self.name, *paged)
        self._look_at_head()
        return count

    def delete(self) -> None:
        """It is gone, with all that is in it; the storage is told by whoever calls this."""
        self.deleted = True
        self.purge()

    def _drop(self, entry: Entry, reason: str) -> None:
        # first: a crash between the two may repeat a letter, but lose none
        self.dead_letter(self, entry.message, reason)
        self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if entry.stored and not self.deleted:
            self.storage.removed(self.name, entry.position)

    # Consumers.

    def add_consumer(self, consumer: Consumer, arguments: Mapping[str, Any]) -> None:
        """From now on it gets messages; with a single active consumer, once those before it are
        gone.
        """
        self.consumers.append(consumer)
        self.pump()

    def remove_consumer(self, consumer: Consumer) -> None:
        """It gets no more; what it holds comes back by `requeue` or `ack`."""
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self.exclusive_consumer = False

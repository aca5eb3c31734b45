"""Queues: messages in order, handed out to consumers, and taken back in the same order.

Classic and quorum queues differ only in what they accept, in what they store, and in the delivery limit; on one machine both are the same
thing. A long queue keeps its head in memory: what is stored behind that is only counted, and loaded page by page as its turn comes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from twisted.logger import Logger

from rtprov.broker.messages import Entry, Message, expiration_s
from rtprov.broker.storage import Record, Storage, StoredQueue

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

RESIDENT_MESSAGES = 2000
RESIDENT_BYTES = 8 * 1024 * 1024


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
    """One queue. `owner` is the connection that an exclusive queue belongs to; `commit` is called after work that no client set off."""

    _log = Logger()

    name: str
    durable: bool
    auto_delete: bool
    owner: object | None
    arguments: Mapping[str, Any]
    storage: Storage
    now: Callable[[], float]
    dead_letter: DeadLetter
    commit: Callable[[], object]
    kind: str = "classic"
    single_active: bool = False
    delivery_limit: int | None = None
    consumers: list[Consumer] = attrs.Factory(list)
    exclusive_consumer: bool = False
    deleted: bool = False
    _returned: list[tuple[int, Entry]] = attrs.Factory(list)  # a heap; all of it comes before all of _ready
    _ready: deque[Entry] = attrs.Factory(deque)
    _ready_bytes: int = 0
    _paged: int = 0  # messages that only the storage has; all of them come behind _ready
    _paged_after: int = 0
    _behind: deque[Entry] = attrs.Factory(deque)  # what is not stored and came while others were paged out
    _loading: Deferred[None] | None = None
    _purges: int = 0
    _next_position: int = 1
    _handed_out: int = 0
    _turn: int = 0

    @property
    def message_count(self) -> int:
        """Messages ready to be handed out."""
        return len(self._returned) + len(self._ready) + self._paged + len(self._behind)

    def publish(self, message: Message) -> None:
        """Put a message at the end."""
        expires_s = expiration_s(message.properties)
        now = self.now()
        expires_at = None if expires_s is None else now + expires_s
        # A quorum queue keeps everything, as RabbitMQ's does.
        stored = self.durable and self.owner is None and (self.kind == "quorum" or message.persistent)
        entry = Entry(self._next_position, message, expires_at, stored=stored)
        self._next_position += 1
        if stored:
            self.storage.added(self.name, Record(entry.position, now, message, expires_at))
        if stored and (self._paged or len(self._ready) >= RESIDENT_MESSAGES or self._ready_bytes >= RESIDENT_BYTES):
            if not self._paged:
                self._paged_after = entry.position - 1
            self._paged += 1
        elif self._paged:
            self._behind.append(entry)
        else:
            self._append(entry)
        self.pump()

    def _append(self, entry: Entry) -> None:
        self._ready.append(entry)
        self._ready_bytes += entry.message.size

    def restore(self, stored: StoredQueue) -> None:
        """Take over what the storage has, at the start."""
        self._paged = stored.count
        self._paged_after = stored.first - 1
        self._handed_out = max(0, stored.handed_out)
        self._next_position = max(stored.last, self._handed_out) + 1

    # Handing out.

    def pump(self) -> None:
        """Hand out messages for as long as there are any and a consumer takes them."""
        while self.message_count:
            consumer = self._next_consumer()
            if consumer is None:
                return
            entry = self.pop()
            if entry is None:
                return  # all have expired, or a page is on its way
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
        """The first message that may still be delivered; it counts as handed out.

        None where there is none, or where its page is on its way: see `when_loaded`.
        """
        while self._returned or self._ready or self._load():
            if self._returned:
                entry = heapq.heappop(self._returned)[1]
            else:
                entry = self._ready.popleft()
                self._ready_bytes -= entry.message.size
                if self._paged and len(self._ready) < RESIDENT_MESSAGES // 2:
                    self._load()
            reason = self._undeliverable(entry)
            if reason is None:
                self._note_handed_out(entry)
                return entry
            self._drop(entry, reason)
        return None

    def _undeliverable(self, entry: Entry) -> str | None:
        """The reason for which a message is dropped at the queue's head."""
        if entry.expires_at is not None and entry.expires_at <= self.now():
            return "expired"
        if self.delivery_limit is not None and entry.deliveries > self.delivery_limit:
            return "delivery_limit"
        return None

    def _note_handed_out(self, entry: Entry) -> None:
        if entry.stored and entry.position > self._handed_out:
            self._handed_out = entry.position
            self.storage.handed_out(self.name, entry.position)

    def header_for(self, entry: Entry) -> bytes:
        """The content header to hand an entry out with; quorum queues tell how often it came back."""
        if self.kind == "quorum" and entry.deliveries:
            return entry.message.with_headers({"x-delivery-count": entry.deliveries})
        return entry.message.header

    # Pages.

    def when_loaded(self) -> Deferred[None] | None:
        """What fires once the page that is on its way has come; None where none is."""
        return self._loading

    def _load(self) -> bool:
        """Have the next page loaded; return whether it is there already."""
        if not self._paged or self._loading is not None:
            return False
        page = self.storage.load(self.name, self._paged_after, self._next_position - 1)
        self._loading = loading = page.addCallback(self._on_page, self._purges)
        if loading.called:
            self._loading = None
            return bool(self._ready)
        loading.addCallbacks(self._go_on, self._on_unreadable)
        return False

    def _on_page(self, page: Sequence[Record], purges: int) -> None:
        if purges != self._purges:
            return
        if not page:
            self._paged = 0
        for record in page:
            self._take_behind(record.position)
            entry = Entry(record.position, record.message, record.expires_at, record.deliveries, record.deliveries > 0, stored=True)
            self._append(entry)
            self._paged_after = record.position
            self._paged -= 1
        if not self._paged:
            self._take_behind(self._next_position)

    def _take_behind(self, before: int) -> None:
        while self._behind and self._behind[0].position < before:
            self._append(self._behind.popleft())

    def _on_unreadable(self, reason: Failure) -> None:
        """Whatever moves the queue next tries again."""
        self._loading = None
        self._log.failure("{queue}: messages cannot be read", reason, queue=self.name)

    def _go_on(self, _: object) -> None:
        self._loading = None
        if not self.deleted:
            self.pump()
            self.commit()

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
                continue
            if entry.stored:
                self.storage.returned(self.name, entry.position, entry.deliveries)
            heapq.heappush(self._returned, (entry.position, entry))
        self.pump()

    def purge(self) -> int:
        """Drop all that is not handed out; return how many."""
        count = self.message_count
        for entry in [*(entry for _, entry in self._returned), *self._ready]:
            self._forget(entry)
        if self._paged:
            self.storage.purged(self.name, self._paged_after + 1, self._next_position - 1)
        self._returned.clear()
        self._ready.clear()
        self._behind.clear()
        self._ready_bytes = self._paged = 0
        self._purges += 1
        return count

    def _drop(self, entry: Entry, reason: str) -> None:
        self._forget(entry)
        self.dead_letter(self, entry.message, reason, entry.deliveries)

    def _forget(self, entry: Entry) -> None:
        if entry.stored and not self.deleted:
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

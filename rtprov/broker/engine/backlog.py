"""The messages of one queue that wait for delivery, in order.

Returned messages come first, then the head of the queue. Both are in memory. Of the rest, messages
that are in the storage are only counted, and loaded page by page when they are needed. Messages
that are not in the storage stay in memory, and keep their place among the others.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger

from rtprov.broker.engine.memory_alarm import Memory
from rtprov.broker.messages import Entry
from rtprov.broker.storage.interface import Record, Storage, StoredQueue

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

RESIDENT_MESSAGES = 2000
RESIDENT_BYTES = 8 * 1024 * 1024


@attrs.define(eq=False)
class Backlog:
    """The waiting messages of the queue `name`.

    `loading` is a Deferred while a page is being loaded, otherwise None. When the page has been
    loaded, `on_page` is called and `loading` fires. If the storage fails to load a page, the next
    call of `load` asks for it again.
    """

    _log = Logger()

    name: str
    storage: Storage
    memory: Memory
    on_page: Callable[[], None]
    loading: Deferred[None] | None = None
    _returned: list[tuple[int, Entry]] = attrs.Factory(list)  # a heap
    _ready: deque[Entry] = attrs.Factory(deque)
    _ready_bytes: int = 0
    _paged: int = 0  # messages that only the storage has
    _paged_after: int = 0
    _last: int = 0
    _out_before: int = 0  # messages up to this position were delivered before the restart
    # Messages that are not stored and were published while others were only in the storage.
    _unstored: deque[Entry] = attrs.Factory(deque)
    _purges: int = 0

    def __len__(self) -> int:
        return len(self._returned) + len(self._ready) + self._paged + len(self._unstored)

    def restore(self, stored: StoredQueue) -> None:
        """Restore the state of the queue from the storage, at the start of the broker."""
        self._paged, self._paged_after, self._last = stored.count, stored.first - 1, stored.last
        self._out_before = stored.handed_out

    # Adding.

    def put(self, entry: Entry) -> None:
        """Add an entry at the end. Its position must be higher than all positions before.

        A stored entry is kept in memory only if there are few others.
        """
        self._last = entry.position
        if entry.stored and (
            self._paged
            or len(self._ready) >= RESIDENT_MESSAGES
            or self._ready_bytes >= RESIDENT_BYTES
        ):
            if not self._paged:
                self._paged_after = entry.position - 1
            self._paged += 1
        elif self._paged:
            self.memory.take(entry.message.size)
            self._unstored.append(entry)
        else:
            self._append(entry)

    def put_back(self, entry: Entry, rank: int) -> None:
        """Return a delivered entry.

        It comes before all entries that were not delivered. Returned entries are ordered by `rank`.
        """
        self.memory.take(entry.message.size)
        heapq.heappush(self._returned, (rank, entry))

    def _append(self, entry: Entry) -> None:
        self._ready.append(entry)
        self._ready_bytes += entry.message.size
        self.memory.take(entry.message.size)

    # Removing.

    def head(self) -> Entry | None:
        """Return the first entry, or None if there is none in memory."""
        if self._returned:
            return self._returned[0][1]
        return self._ready[0] if self._ready else None

    def take(self) -> None:
        """Remove the first entry. Start loading the next page if few entries are left in memory."""
        if self._returned:
            self.memory.give(heapq.heappop(self._returned)[1].message.size)
            return
        size = self._ready.popleft().message.size
        self._ready_bytes -= size
        self.memory.give(size)
        if (
            self._paged
            and len(self._ready) < RESIDENT_MESSAGES // 2
            and self._ready_bytes < RESIDENT_BYTES // 2
        ):
            self.load()

    def purge(self) -> tuple[list[Entry], tuple[int, int] | None]:
        """Remove all entries.

        Return the entries that were in memory, and the first and last position of those that are
        only in the storage, or None if there are none.
        """
        resident = [*(entry for _, entry in self._returned), *self._ready, *self._unstored]
        for entry in resident:
            self.memory.give(entry.message.size)
        paged = (self._paged_after + 1, self._last) if self._paged else None
        self._returned.clear()
        self._ready.clear()
        self._unstored.clear()
        self._ready_bytes = self._paged = 0
        self._purges += 1
        return resident, paged

    # Pages.

    def load(self) -> bool:
        """Start loading the next page. Return whether it is loaded already."""
        if not self._paged or self.loading is not None:
            return False
        page = self.storage.load(self.name, self._paged_after, self._last)
        self.loading = loading = page.addCallback(self._take_page, self._purges)
        if loading.called:
            self.loading = None
            loading.addErrback(self._on_unreadable)
            return bool(self._ready)
        loading.addCallbacks(self._loaded, self._on_unreadable)
        return False

    def _take_page(self, page: Sequence[Record], purges: int) -> None:
        if purges != self._purges:
            return
        if not page:
            self._paged = 0
        for record in page:
            self._append_unstored(record.position)
            self._append(self._entry_of(record))
            self._paged_after = record.position
            self._paged -= 1
        if not self._paged:
            self._append_unstored(self._last + 1)

    def _entry_of(self, record: Record) -> Entry:
        """Make an entry from a stored message.

        A message that was delivered before the restart counts as returned once: its consumer lost
        it at the restart at the latest.
        """
        deliveries = max(record.deliveries, int(record.position <= self._out_before))
        return Entry(
            record.position,
            record.message,
            record.expires_at,
            deliveries,
            deliveries > 0,
            stored=True,
        )

    def _append_unstored(self, before: int) -> None:
        while self._unstored and self._unstored[0].position < before:
            entry = self._unstored.popleft()
            self.memory.give(entry.message.size)
            self._append(entry)

    def _loaded(self, _: object) -> None:
        self.loading = None
        self.on_page()

    def _on_unreadable(self, reason: Failure) -> None:
        self.loading = None
        self._log.failure(
            "queue {queue}: messages could not be read from the storage; trying again when they"
            " are needed next",
            reason,
            queue=self.name,
        )

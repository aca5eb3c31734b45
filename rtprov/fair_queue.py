"""Which of the waiting tasks gets the next slot: callers share them. No time, no I/O.

The next item is one of the caller with the fewest running calls. Among several such callers, it is
the one that has waited longest since its last slot. Within a caller, items go by urgency, then by
turn.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from attrs import define, field

T = TypeVar("T")

# A heap is rebuilt when it has so many more entries than items, because old entries stay in it.
MOST_OLD = 1000


@define(eq=False)
class Share(Generic[T]):
    """One caller: its running calls, and its items. `since` is a number that grows with time: when
    it got its last slot, or came.
    """

    caller: str | None
    since: int
    running: int = 0
    waiting: dict[T, None] = field(factory=dict)
    heap: list[tuple[int, int, int, T]] = field(factory=list)  # may hold items that have gone


class FairQueue(Generic[T]):
    """Waiting items of several callers. Items are hashable, and each is in the queue once.

    Each operation costs the logarithm of the number of callers and of the caller's items.
    """

    def __init__(self) -> None:
        self._shares: dict[str | None, Share[T]] = {}
        self._numbers = count()
        # Callers with items, by calls and waiting time. An entry counts only while both are as in
        # the share.
        self._heap: list[tuple[int, int, Share[T]]] = []
        self._size = 0

    def __len__(self) -> int:
        """How many items wait."""
        return self._size

    def waiting(self, caller: str | None) -> int:
        """Return how many items of this caller wait."""
        share = self._shares.get(caller)
        return 0 if share is None else len(share.waiting)

    def add(self, caller: str | None, item: T, urgency: int, turn: int) -> None:
        """Add an item; a lower `urgency`, then a lower `turn`, is served first."""
        share = self._share(caller)
        share.waiting[item] = None
        self._size += 1
        heappush(share.heap, (urgency, turn, next(self._numbers), item))
        if len(share.heap) > 2 * len(share.waiting) + MOST_OLD:
            share.heap = [entry for entry in share.heap if entry[3] in share.waiting]
            heapify(share.heap)
        if len(share.waiting) == 1:
            self._rank(share)

    def remove(self, caller: str | None, item: T) -> bool:
        """Remove an item; return whether it was there."""
        share = self._shares.get(caller)
        if share is None or item not in share.waiting:
            return False
        del share.waiting[item]
        self._size -= 1
        self._drop_if_idle(share)
        return True

    def pop(self) -> T:
        """Remove the next item and return it. Its caller has one more running call now.

        Raises IndexError if no item waits.
        """
        share = self._next_share()
        while True:
            item = heappop(share.heap)[3]
            if item in share.waiting:
                break
        del share.waiting[item]
        self._size -= 1
        share.running += 1
        share.since = next(self._numbers)
        self._rank(share)
        return item

    def began(self, caller: str | None) -> None:
        """A call of this caller runs whose item did not come from `pop`."""
        share = self._share(caller)
        share.running += 1
        self._rank(share)

    def ended(self, caller: str | None) -> None:
        """A call of this caller has ended."""
        share = self._shares[caller]
        share.running -= 1
        self._rank(share)
        self._drop_if_idle(share)

    def _share(self, caller: str | None) -> Share[T]:
        share = self._shares.get(caller)
        if share is None:
            share = self._shares[caller] = Share(caller, next(self._numbers))
        return share

    def _drop_if_idle(self, share: Share[T]) -> None:
        if not share.running and not share.waiting:
            del self._shares[share.caller]

    def _next_share(self) -> Share[T]:
        while True:
            running, since, share = heappop(self._heap)
            if share.waiting and (running, since) == (share.running, share.since):
                return share

    def _rank(self, share: Share[T]) -> None:
        """Put the caller where it belongs among the callers with items."""
        if not share.waiting:
            return
        heappush(self._heap, (share.running, share.since, share))
        if len(self._heap) > 2 * len(self._shares) + MOST_OLD:
            self._heap = [
                (each.running, each.since, each) for each in self._shares.values() if each.waiting
            ]
            heapify(self._heap)

"""Per-device order: one lane for each device, of which one item goes while the others wait. Pure
bookkeeping; time and I/O are the caller's."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@define(eq=False)
class _Lane(Generic[T]):
    head: T | None = None
    waiting: deque[T] = field(factory=deque)


class DeviceQueues(Generic[T]):
    """One item of a device goes at a time; devices do not know of one another. A device with
    nothing to do costs nothing.

    `may_go` tells whether it is an item's turn. Of those whose turn it is, the one that came first
    goes. Who knows that a turn may have come calls `wake`."""

    def __init__(self, may_go: Callable[[T], bool] = lambda item: True) -> None:
        self._may_go = may_go
        self._lanes: dict[str, _Lane[T]] = {}
        self._size = 0

    def __len__(self) -> int:
        """How many items are in all lanes, heads included."""
        return self._size

    @property
    def active(self) -> int:
        """How many devices have a head, which is an item that goes."""
        return sum(lane.head is not None for lane in self._lanes.values())

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    def enter(self, device: str, item: T) -> bool:
        """Put `item` at the end of its device's lane. True: it is the head and may go now."""
        self._size += 1
        lane = self._lanes.setdefault(device, _Lane())
        if lane.head is None and self._may_go(item):
            lane.head = item
            return True
        lane.waiting.append(item)
        return False

    def leave(self, device: str) -> T | None:
        """The device's head is done. Return the new head, which may go now, or None where there is
        none. Raises KeyError without a head."""
        lane = self._lanes[device]
        if lane.head is None:
            raise KeyError(device)
        lane.head = None
        self._size -= 1
        return self.wake(device)

    def wake(self, device: str) -> T | None:
        """Return the device's new head, which may go now; None where it has one, or where nothing
        that waits has its turn."""
        lane = self._lanes.get(device)
        if lane is None or lane.head is not None:
            return None
        for place, item in enumerate(lane.waiting):
            if self._may_go(item):
                del lane.waiting[place]
                lane.head = item
                return item
        if not lane.waiting:
            del self._lanes[device]
        return None

    def drop(self, device: str, item: T) -> bool:
        """Forget an item that waits; return whether it was there."""
        lane = self._lanes.get(device)
        if lane is None or item not in lane.waiting:
            return False
        lane.waiting.remove(item)
        self._size -= 1
        if lane.head is None and not lane.waiting:
            del self._lanes[device]
        return True

    def drop_waiting(self) -> list[T]:
        """Forget everything that waits; return it, in each device's order. Heads stay."""
        dropped: list[T] = []
        for device, lane in list(self._lanes.items()):
            dropped += lane.waiting
            lane.waiting.clear()
            if lane.head is None:
                del self._lanes[device]
        self._size -= len(dropped)
        return dropped

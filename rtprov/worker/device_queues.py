"""Per-device order: one lane for each device, in which one item at a time is active.

Pure data structure, without time or I/O.
"""

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
    """The lanes of all devices. The active item of a lane is its head; the others wait.

    `may_become_head` returns whether an item may become the head. If several items may, the one
    that entered first becomes the head. Call `wake` when an item's turn may have come. An empty
    lane uses no memory.
    """

    def __init__(self, may_become_head: Callable[[T], bool] = lambda item: True) -> None:
        self._may_become_head = may_become_head
        self._lanes: dict[str, _Lane[T]] = {}
        self._size = 0

    def __len__(self) -> int:
        """How many items are in all lanes, heads included."""
        return self._size

    @property
    def active(self) -> int:
        """How many devices have a head."""
        return sum(lane.head is not None for lane in self._lanes.values())

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    def enter(self, device: str, item: T) -> bool:
        """Add `item` to the end of its device's lane. Return True if it is the head now."""
        self._size += 1
        lane = self._lanes.setdefault(device, _Lane())
        if lane.head is None and self._may_become_head(item):
            lane.head = item
            return True
        lane.waiting.append(item)
        return False

    def leave(self, device: str) -> T | None:
        """Remove the device's head. Return the new head, or None if no item may go.

        Raises KeyError if the device has no head.
        """
        lane = self._lanes[device]
        if lane.head is None:
            raise KeyError(device)
        lane.head = None
        self._size -= 1
        return self.wake(device)

    def wake(self, device: str) -> T | None:
        """Choose a head for the device if it has none. Return the new head; None if there was one
        already, or if no waiting item may go.
        """
        lane = self._lanes.get(device)
        if lane is None or lane.head is not None:
            return None
        for place, item in enumerate(lane.waiting):
            if self._may_become_head(item):
                del lane.waiting[place]
                lane.head = item
                return item
        if not lane.waiting:
            del self._lanes[device]
        return None

    def drop(self, device: str, item: T) -> bool:
        """Remove a waiting item; return whether it was there."""
        lane = self._lanes.get(device)
        if lane is None or item not in lane.waiting:
            return False
        lane.waiting.remove(item)
        self._size -= 1
        if lane.head is None and not lane.waiting:
            del self._lanes[device]
        return True

    def drop_waiting(self) -> list[T]:
        """Remove all waiting items and return them, in each device's order. Heads stay."""
        dropped: list[T] = []
        for device, lane in list(self._lanes.items()):
            dropped += lane.waiting
            lane.waiting.clear()
            if lane.head is None:
                del self._lanes[device]
        self._size -= len(dropped)
        return dropped

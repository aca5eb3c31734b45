"""Per-device order: one lane for each device, whose head may go while the others wait. Pure bookkeeping; time and I/O are the caller's."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """First in, first out within a device; devices do not know of one another. A device with nothing to do costs nothing."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[T]] = {}
        self._size = 0

    def __len__(self) -> int:
        """How many items are in all lanes, heads included."""
        return self._size

    @property
    def active(self) -> int:
        """How many devices have a head, which is how many items may go."""
        return len(self._lanes)

    @property
    def waiting(self) -> int:
        """How many items wait behind a head."""
        return self._size - len(self._lanes)

    def enter(self, device: str, item: T) -> bool:
        """Put `item` at the end of its device's lane. True: it is the head and may go now."""
        self._size += 1
        lane = self._lanes.get(device)
        if lane is None:
            self._lanes[device] = deque((item,))
            return True
        lane.append(item)
        return False

    def leave(self, device: str) -> T | None:
        """The device's head is done. Return the new head, which may go now, or None where nobody waits. Raises KeyError without a head."""
        lane = self._lanes[device]
        lane.popleft()
        self._size -= 1
        if lane:
            return lane[0]
        del self._lanes[device]
        return None

    def drop_waiting(self) -> list[T]:
        """Forget everything behind the heads; return it, in each device's order. Heads stay."""
        dropped: list[T] = []
        for lane in self._lanes.values():
            if len(lane) > 1:
                head, *behind = lane
                lane.clear()
                lane.append(head)
                dropped += behind
        self._size -= len(dropped)
        return dropped

"""Records of tasks in the order of a time, as a list of short lists."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rtprov.journal.record import Record

# A block is split when it has twice as many records. Records come nearly in order, so nearly all
# are appended to the last block; that takes no more than a comparison.
BLOCK = 1000

_task_id = attrgetter("task_id")


class SortedRecords:
    """Records in the order of (`time_of(record)`, task id); about 9 bytes for each.

    `time_of` returns a time in seconds; `operator.attrgetter` is fastest. It must not change while
    a record is in. The cost of `add`, `discard` and `count_before` hardly grows with the number of
    records. The records must not change during an iteration.
    """

    def __init__(self, time_of: Callable[[Record], float]) -> None:
        self._time_of = time_of
        self._blocks: list[list[Record]] = []  # none is empty
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, record: Record) -> None:
        """Add a record that is not in."""
        blocks, at = self._blocks, self._time_of(record)
        self._count += 1
        if not blocks or self._time_of(blocks[-1][-1]) < at:
            if blocks and len(blocks[-1]) < BLOCK:
                blocks[-1].append(record)
            else:
                blocks.append([record])
            return
        index, place = self._find(at, record.task_id)
        block = blocks[index]
        block.insert(place, record)
        if len(block) == 2 * BLOCK:
            blocks[index : index + 1] = [block[:BLOCK], block[BLOCK:]]

    def discard(self, record: Record) -> bool:
        """Remove a record. Return whether it was in."""
        if not self._blocks:
            return False
        block, index, place = self._blocks[0], 0, 0
        if block[0] is not record:  # open tasks end nearly in their order
            index, place = self._find(self._time_of(record), record.task_id)
            block = self._blocks[index]
            if place == len(block) or block[place] is not record:
                return False
        del block[place]
        if not block:
            del self._blocks[index]
        self._count -= 1
        return True

    def before(self, at: float, task_id: str) -> Iterator[Record]:
        """Yield the records before this time and id, the newest first."""
        if not self._blocks:
            return
        index, place = self._find(at, task_id)
        yield from reversed(self._blocks[index][:place])
        for earlier in range(index - 1, -1, -1):
            yield from reversed(self._blocks[earlier])

    def oldest(self) -> Iterator[Record]:
        """Yield all records, the oldest first."""
        for block in self._blocks:
            yield from block

    def count_before(self, at: float, task_id: str) -> int:
        """Return the number of the records before this time and id.

        The cost is that of one addition for each thousand records.
        """
        if not self._blocks:
            return 0
        index, place = self._find(at, task_id)
        return sum(map(len, self._blocks[:index])) + place

    def _find(self, at: float, task_id: str) -> tuple[int, int]:
        """Return the index of a block, and a place in it: that of the first record at or after this
        time and id. It is after the last one if there is none.
        """
        blocks, time_of = self._blocks, self._time_of
        index = 0
        if time_of(blocks[0][-1]) <= at:
            index = bisect_left(
                blocks, (at, task_id), key=lambda block: (time_of(block[-1]), block[-1].task_id)
            )
            if index == len(blocks):
                return index - 1, len(blocks[-1])
        block = blocks[index]
        low = bisect_left(block, at, key=time_of)
        if low == len(block) or time_of(block[low]) != at:
            return index, low
        high = bisect_right(block, at, low, key=time_of)
        return index, bisect_left(block, task_id, low, high, key=_task_id)

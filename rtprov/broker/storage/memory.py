"""A storage in memory, for tests and measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed

from rtprov.broker.storage.interface import (
    PAGE_BYTES,
    PAGE_MESSAGES,
    Record,
    Recovered,
    StoredExchange,
    ignore_trouble,
)


class MemoryStorage:
    """Implements `rtprov.broker.storage.interface.Storage` without a file.

    The messages are lost when the process ends. The commands of rtprov use `SqliteStorage`.
    """

    congested = False

    def __init__(self) -> None:
        self.on_trouble: Callable[[str | None], None] = ignore_trouble
        self._queues: dict[str, dict[int, Record]] = {}
        self._last: dict[str, int] = {}
        self._first: dict[str, int] = {}

    def recover(self) -> Recovered:
        return Recovered((), ())

    def exchange_declared(self, exchange: StoredExchange) -> None: ...

    def exchange_deleted(self, name: str) -> None: ...

    def queue_declared(self, name: str, arguments: Mapping[str, Any], auto_delete: bool) -> None:
        self._queues[name] = {}
        self._first[name], self._last[name] = 0, -1

    def queue_deleted(self, name: str) -> None:
        del self._queues[name], self._first[name], self._last[name]

    def bound(self, queue: str, exchange: str, routing_key: str) -> None: ...

    def unbound(self, queue: str, exchange: str, routing_key: str) -> None: ...

    def added(self, queue: str, record: Record) -> None:
        records = self._queues[queue]
        if not records:
            self._first[queue] = record.position
        records[record.position] = record
        self._last[queue] = record.position

    def removed(self, queue: str, position: int) -> None:
        self._queues[queue].pop(position, None)

    def purged(self, queue: str, first: int, last: int) -> None:
        for position in range(first, last + 1):
            self._queues[queue].pop(position, None)

    def handed_out(self, queue: str, position: int) -> None: ...

    def handed_out_again(self, queue: str, position: int, deliveries: int) -> None: ...

    def load(self, queue: str, after: int, upto: int) -> Deferred[Sequence[Record]]:
        records, page, size = self._queues.get(queue, {}), [], 0
        for position in range(after + 1, min(upto, self._last.get(queue, -1)) + 1):
            record = records.get(position)
            if record is not None:
                page.append(record)
                size += record.size
                if len(page) >= PAGE_MESSAGES or size >= PAGE_BYTES:
                    break
        return succeed(page)

    def position_at(self, stream: str, time: float) -> Deferred[int | None]:
        return succeed(
            next(
                (each.position for each in self._queues[stream].values() if each.time >= time), None
            )
        )

    def trim(self, stream: str, before: float) -> Deferred[int | None]:
        records, first, last = self._queues[stream], self._first[stream], self._last[stream]
        while first < last and records[first].time < before:
            del records[first]
            first += 1
        self._first[stream] = first
        return succeed(first if records else None)

    def commit(self) -> Deferred[None]:
        return succeed(None)

    def close(self) -> Deferred[None]:
        return succeed(None)

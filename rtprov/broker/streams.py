"""Streams: append-only logs that every consumer reads for itself, from where it likes (https://www.rabbitmq.com/docs/streams)."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import attrs

from rtprov.broker.messages import Entry, Message
from rtprov.broker.queues import Consumer
from rtprov.broker.storage import Storage
from rtprov.errors import AmqpError

OFFSET_HEADER = "x-stream-offset"
TRIM_AT = 1000  # forget in pieces: dropping the list's head costs its whole length

_UNITS = {"s": 1, "m": 60, "h": 3600, "D": 86400, "M": 30 * 86400, "Y": 365 * 86400}
_AGE = re.compile(r"(\d{1,9})([smhDMY])")


def max_age_s(arguments: Mapping[str, Any]) -> float | None:
    """The ``x-max-age`` argument in seconds, None without one. Raises `AmqpError` 406."""
    text = arguments.get("x-max-age")
    if text is None:
        return None
    match = _AGE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise AmqpError(406, "PRECONDITION_FAILED - invalid arg 'x-max-age'")
    return float(int(match[1]) * _UNITS[match[2]])


@attrs.define(eq=False)
class Stream:
    """One stream. Offsets count from 0 and are never used again."""

    name: str
    arguments: Mapping[str, Any]
    storage: Storage
    now: Callable[[], float]
    max_age_s: float | None = None
    durable: bool = True
    auto_delete: bool = False
    owner: None = None
    kind: str = "stream"
    exclusive_consumer: bool = False
    _messages: list[Message] = attrs.Factory(list)
    _times: list[float] = attrs.Factory(list)
    _first_offset: int = 0
    _positions: dict[Consumer, int] = attrs.Factory(dict)

    @property
    def consumers(self) -> list[Consumer]:
        """Who reads it."""
        return list(self._positions)

    @property
    def message_count(self) -> int:
        """All that it remembers."""
        return len(self._messages)

    @property
    def next_offset(self) -> int:
        """What the next message will have."""
        return self._first_offset + len(self._messages)

    def publish(self, message: Message) -> None:
        """Append a message; its expiration does not count."""
        self.storage.added(self.name, self.next_offset, self.now(), message)
        self._messages.append(message)
        self._times.append(self.now())
        self._trim()
        self.pump()

    def restore(self, offset: int, time: float, message: Message) -> None:
        """Take back a stored message at the start."""
        if not self._messages:
            self._first_offset = offset
        self._messages.append(message)
        self._times.append(time)

    def _trim(self) -> None:
        if self.max_age_s is None or len(self._messages) < TRIM_AT or self._times[TRIM_AT - 1] >= self.now() - self.max_age_s:
            return
        count = bisect_left(self._times, self.now() - self.max_age_s)
        del self._messages[:count], self._times[:count]
        self._first_offset += count
        self.storage.truncated(self.name, self._first_offset)

    def add_consumer(self, consumer: Consumer, arguments: Mapping[str, Any]) -> None:
        """Read from ``x-stream-offset`` on. Raises `AmqpError` 406."""
        self._positions[consumer] = self._start(arguments.get(OFFSET_HEADER, "next"))
        self._pump_one(consumer)

    def _start(self, spec: Any) -> int:
        if spec == "first":
            return self._first_offset
        if spec == "last":
            return max(self._first_offset, self.next_offset - 1)
        if spec == "next":
            return self.next_offset
        if isinstance(spec, datetime):
            return self._first_offset + bisect_left(self._times, spec.timestamp())
        if isinstance(spec, int) and not isinstance(spec, bool) and spec >= 0:
            return min(max(spec, self._first_offset), self.next_offset)
        raise AmqpError(406, "PRECONDITION_FAILED - invalid 'x-stream-offset'")

    def remove_consumer(self, consumer: Consumer) -> None:
        """It reads no more."""
        self._positions.pop(consumer, None)

    def pump(self) -> None:
        """Let every consumer read on for as long as it takes more."""
        for consumer in self.consumers:
            self._pump_one(consumer)

    def _pump_one(self, consumer: Consumer) -> None:
        while consumer in self._positions and consumer.ready:
            offset = max(self._positions[consumer], self._first_offset)
            if offset >= self.next_offset:
                return
            self._positions[consumer] = offset + 1
            message = self._messages[offset - self._first_offset]
            consumer.deliver(Entry(offset, message), message.with_headers({OFFSET_HEADER: offset}))

    # A stream's messages are not consumed: settling one only makes room for the next.

    def ack(self, entry: Entry) -> None: ...

    def reject(self, entry: Entry) -> None: ...

    def requeue(self, entries: Iterable[Entry]) -> None: ...

    def pop(self) -> Entry | None:
        """``basic.get``. Raises `AmqpError` 540, as RabbitMQ does."""
        raise AmqpError(540, f"NOT_IMPLEMENTED - basic.get not supported by stream queues queue '{self.name}' in vhost '/'")

    def header_for(self, entry: Entry) -> bytes:
        return entry.message.header

    def purge(self) -> int:
        """Raises `AmqpError` 540, as RabbitMQ does."""
        raise AmqpError(540, f"NOT_IMPLEMENTED - queue.purge not supported by stream queues queue '{self.name}' in vhost '/'")

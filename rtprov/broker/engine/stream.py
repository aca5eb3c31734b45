"""Streams: append-only logs (https://www.rabbitmq.com/docs/streams).

Each consumer reads all messages, from the offset that it chooses. The newest messages are in
memory. A consumer that reads older ones gets them from the storage, page by page. Messages are
delivered only after they are committed, so a consumer never sees a message that is lost later.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs
from twisted.logger import Logger

from rtprov.broker.engine.queue import Consumer
from rtprov.broker.messages import Entry, Message
from rtprov.broker.storage.interface import Record, Storage, StoredQueue
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

OFFSET_HEADER = "x-stream-offset"
TAIL_MESSAGES = 4096
TAIL_BYTES = 8 * 1024 * 1024
TRIM_EVERY = 1000  # messages

_UNITS = {"s": 1, "m": 60, "h": 3600, "D": 86400, "M": 30 * 86400, "Y": 365 * 86400}
_AGE = re.compile(r"(\d{1,9})([smhDMY])")


def max_age_s(arguments: Mapping[str, Any]) -> float | None:
    """Return the ``x-max-age`` argument in seconds, or None if there is none.

    Raises `AmqpError` 406 if it is invalid.
    """
    text = arguments.get("x-max-age")
    if text is None:
        return None
    match = _AGE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise AmqpError(406, "PRECONDITION_FAILED - invalid arg 'x-max-age'")
    return float(int(match[1]) * _UNITS[match[2]])


@attrs.define(eq=False)
class _Reader:
    """A consumer's position in the stream.

    `offset` is the next offset to deliver, `page` the messages loaded for it. `loading` is True
    while a page is being loaded, or the offset for a timestamp is being looked up.
    """

    consumer: Consumer
    offset: int
    page: deque[Record] = attrs.Factory(deque)
    loading: bool = False


@attrs.define(eq=False)
class Stream:
    """One stream. Offsets start at 0 and are never used again.

    `max_age_s` is the age in seconds after which messages are deleted; None for never.
    """

    _log = Logger()

    name: str
    arguments: Mapping[str, Any]
    storage: Storage
    now: Callable[[], float]
    max_age_s: float | None = None
    durable: bool = True
    auto_delete: bool = False
    owner: None = None
    kind: str = "stream"
    single_active: bool = False
    exclusive_consumer: bool = False
    deleted: bool = False
    _first_offset: int = 0
    _next_offset: int = 0
    _shown_upto: int = 0  # offsets below this are committed
    _tail: list[Record] = attrs.Factory(list)  # the newest messages, with consecutive offsets
    _tail_bytes: int = 0
    _untrimmed: int = TRIM_EVERY
    _trimming: bool = False
    _readers: dict[Consumer, _Reader] = attrs.Factory(dict)

    @property
    def consumers(self) -> list[Consumer]:
        """The consumers of the stream."""
        return list(self._readers)

    @property
    def message_count(self) -> int:
        """The number of messages that the stream keeps."""
        return self._next_offset - self._first_offset

    @property
    def next_offset(self) -> int:
        """The offset of the next message."""
        return self._next_offset

    def when_loaded(self) -> None:
        """Return None: `pop` never waits for a page."""

    # Appending.

    def publish(self, message: Message) -> None:
        """Append a message. It is delivered once it is committed. Its expiration is ignored."""
        record = Record(self._next_offset, self.now(), message)
        self._next_offset += 1
        self.storage.added(self.name, record)
        self._tail.append(record)
        self._tail_bytes += message.size
        if len(self._tail) > 2 * TAIL_MESSAGES or self._tail_bytes > 2 * TAIL_BYTES:
            self._shorten_tail()
        self._untrimmed += 1
        self._trim()

    def _shorten_tail(self) -> None:
        """Remove the older half from memory.

        Many messages at once, because removing the head of a list takes time for its whole length.
        """
        forgotten = self._tail[: len(self._tail) // 2]
        del self._tail[: len(forgotten)]
        self._tail_bytes -= sum(record.message.size for record in forgotten)

    def show(self, upto: int) -> None:
        """Deliver messages below the offset `upto`, which are committed now."""
        self._shown_upto = max(self._shown_upto, upto)
        self.pump()

    def restore(self, stored: StoredQueue) -> None:
        """Restore the state of the stream from the storage, at the start of the broker."""
        self._first_offset = stored.first
        self._next_offset = self._shown_upto = stored.last + 1

    def _trim(self) -> None:
        """Delete messages that are too old, once for every `TRIM_EVERY` messages published.

        Not for each message, because it needs a query of the storage.
        """
        if self.max_age_s is None or self._trimming or self._untrimmed < TRIM_EVERY:
            return
        self._untrimmed = 0
        self._trimming = True
        self.storage.trim(self.name, self.now() - self.max_age_s).addCallbacks(
            self._on_trimmed, self._on_untrimmed
        )

    def _on_trimmed(self, first: int | None) -> None:
        self._trimming = False
        if first is not None:
            self._first_offset = max(self._first_offset, first)

    def _on_untrimmed(self, reason: Failure) -> None:
        self._trimming = False
        self._log.failure(
            "stream {stream}: old messages could not be deleted; trying again after the next"
            " {count} messages",
            reason,
            stream=self.name,
            count=TRIM_EVERY,
        )

    # Reading.

    def add_consumer(self, consumer: Consumer, arguments: Mapping[str, Any]) -> None:
        """Add a consumer that reads from ``x-stream-offset`` on.

        Raises `AmqpError` 406 if the offset is invalid.
        """
        spec = arguments.get(OFFSET_HEADER, "next")
        reader = _Reader(consumer, self._start(spec))
        self._readers[consumer] = reader
        if isinstance(spec, datetime):
            reader.loading = True
            self._load(
                reader, self.storage.position_at(self.name, spec.timestamp()), self._on_place
            )
        self._serve(reader)

    def _start(self, spec: Any) -> int:
        if spec == "first":
            return self._first_offset
        if spec == "last":
            return max(self._first_offset, self._next_offset - 1)
        if spec == "next" or isinstance(spec, datetime):
            return self._next_offset
        if isinstance(spec, int) and not isinstance(spec, bool) and spec >= 0:
            return min(max(spec, self._first_offset), self._next_offset)
        raise AmqpError(406, "PRECONDITION_FAILED - invalid 'x-stream-offset'")

    def remove_consumer(self, consumer: Consumer) -> None:
        """Remove a consumer."""
        self._readers.pop(consumer, None)
        self.exclusive_consumer = False

    def pump(self) -> None:
        """Deliver messages to all consumers that are ready."""
        for reader in list(self._readers.values()):
            self._serve(reader)

    def _serve(self, reader: _Reader) -> None:
        consumer = reader.consumer
        while not reader.loading and consumer in self._readers and consumer.ready:
            record = self._next(reader)
            if record is None:
                return
            reader.offset = record.position + 1
            header = record.message.with_number(OFFSET_HEADER, record.position)
            consumer.deliver(Entry(record.position, record.message), header)

    def _next(self, reader: _Reader) -> Record | None:
        """Return the next message for a reader, or None if it has to wait."""
        offset = max(reader.offset, self._first_offset)
        if offset >= self._shown_upto:
            return None
        if self._tail and offset >= self._tail[0].position:
            reader.page.clear()
            return self._tail[offset - self._tail[0].position]
        while reader.page and reader.page[0].position < offset:
            reader.page.popleft()
        if not reader.page:
            reader.loading = True
            self._load(
                reader,
                self.storage.load(self.name, offset - 1, self._shown_upto - 1),
                self._on_page,
            )
        return reader.page.popleft() if reader.page else None

    def _load(
        self, reader: _Reader, loaded: Deferred[Any], take: Callable[[_Reader, Any], None]
    ) -> None:
        at_once = loaded.called
        loaded.addCallback(lambda result: take(reader, result))
        loaded.addCallbacks(
            lambda _: self._loaded(reader, at_once), self._on_unreadable, errbackArgs=(reader,)
        )

    def _loaded(self, reader: _Reader, at_once: bool) -> None:
        reader.loading = False
        if not at_once and not self.deleted:
            self._serve(reader)

    def _on_unreadable(self, reason: Failure, reader: _Reader) -> None:
        """Cancel a consumer whose messages cannot be read. Its client may consume again."""
        self._log.failure(
            "stream {stream}: messages could not be read from the storage; cancelling the consumer",
            reason,
            stream=self.name,
        )
        if reader.consumer in self._readers:
            self.remove_consumer(reader.consumer)
            reader.consumer.cancelled()

    def _on_page(self, reader: _Reader, page: Sequence[Record]) -> None:
        reader.page.extend(page)

    def _on_place(self, reader: _Reader, offset: int | None) -> None:
        if offset is not None:
            reader.offset = offset

    def delete(self) -> None:
        """Mark the stream as deleted."""
        self.deleted = True

    # Messages stay in a stream. Settling one only makes room for the next in the prefetch.

    def ack(self, entry: Entry) -> None: ...

    def reject(self, entry: Entry) -> None: ...

    def requeue(self, entries: Iterable[Entry], *, lost: bool) -> None: ...

    def pop(self) -> Entry | None:
        """Raise `AmqpError` 540: streams do not support ``basic.get``, as in RabbitMQ."""
        raise AmqpError(
            540,
            f"NOT_IMPLEMENTED - basic.get not supported by stream queues queue '{self.name}' in"
            " vhost '/'",
        )

    def header_for(self, entry: Entry) -> bytes:
        return entry.message.header

    def purge(self) -> int:
        """Raise `AmqpError` 540: streams do not support ``queue.purge``, as in RabbitMQ."""
        raise AmqpError(
            540,
            f"NOT_IMPLEMENTED - queue.purge not supported by stream queues queue '{self.name}' in"
            " vhost '/'",
        )

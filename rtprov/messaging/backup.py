"""Save the journals of a broker in a file, and fill an empty broker from it.

A backup is made while everything runs: it reads the journals, which are streams, and removes
nothing. The bodies of tasks stay sealed. What happens after the backup has begun may be in it or
not.

The restored broker has the journals, and a message in the work queue for each task that had not
ended. A worker that connects knows all statuses and `Idempotency-Key`s, and calls service A for the
open tasks. Dead and parked letters are not saved: a task with a dead letter is an open task.

The file is text: a header, then a line for each event with the number of its shard and the message,
and at last the number of events, so that a part of a file is recognised::

    {"rtprov":"backup","v":1,"shards":2,"at":1800000000.0}
    0 {"kind":"requested",…}
    {"rtprov":"end","events":1}
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, cast

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from rtprov.amqp.client.consumer import cancel, consume
from rtprov.amqp.client.gathering import gather
from rtprov.errors import ConfigurationError, UndecodableMessage
from rtprov.messaging.event_batches import events_in
from rtprov.messaging.event_messages import decode_event, encode_event
from rtprov.messaging.markers import rebase_copy
from rtprov.messaging.moving import BATCH
from rtprov.messaging.relocation import Side
from rtprov.messaging.shard_count import (
    CHANGE_QUEUE,
    MAX_SHARDS,
    MOVING,
    Remembered,
    count_of_earlier_version,
    delete_queue,
    message_count,
    read,
    remember,
    store,
)
from rtprov.messaging.topology import Shard, Topology, persistent
from rtprov.model import Cancelled, Finished, Marker, Requested, Started

if TYPE_CHECKING:
    from rtprov.amqp.client.delivery import Delivery

VERSION = 1
MAX_LINE = 16 * 1024 * 1024
MAX_DIGITS = 4  # of a shard's index


async def save(
    side: Side, out: IO[bytes], *, new_id: Callable[[], str], at: float
) -> tuple[int, int]:
    """Write a backup of a broker; return the numbers of shards and of events.

    `at` is the time of day, in seconds since the epoch. Raises `ConfigurationError` if rtprov has
    not run on the broker or its tasks are being moved, `BrokerError`, and OSError of the file.
    """
    count = await _count(side)
    out.write(_line({"rtprov": "backup", "v": VERSION, "shards": count, "at": at}))
    events = 0
    for index in range(count):
        shard = Shard(index, count)
        if await message_count(side.connection, shard.journal) is not None:
            events += await _Journal(side, shard, out, new_id()).copy()
    out.write(_line({"rtprov": "end", "events": events}))
    return count, events


async def _count(side: Side) -> int:
    known = await read(side.connection, Remembered(1))
    if known is None:
        count = await count_of_earlier_version(side.connection)
        if count is None:
            raise ConfigurationError("The broker has no tasks: rtprov has not run on it")
        return count
    if known.changing_to is not None:
        raise ConfigurationError(
            "The tasks of this broker are being moved, or were moved to another one: complete that"
            " first, and back up the other one"
        )
    return known.count


def _line(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


@define
class _Journal:
    """Copies the events of one journal to a file, up to a marker that it appends."""

    _side: Side
    _shard: Shard
    _out: IO[bytes]
    _marker: str
    _arrived: deque[Delivery] = field(factory=deque)
    _waiting: Deferred[None] | None = None

    async def copy(self) -> int:
        """Copy the events; return their number. Raises `BrokerError`."""
        # A marker is an event that workers pass over.
        marker = encode_event(Marker(self._marker))
        await self._side.publisher.publish("", self._shard.journal, marker, properties=persistent())
        channel = await self._side.connection.open_channel()
        channel.on_closed(self._wake)
        tag = await consume(
            channel,
            self._shard.journal,
            self._on_delivery,
            prefetch=BATCH,
            arguments={"x-stream-offset": "first"},
        )
        copied, first, over = 0, None, False
        while not over:
            if not self._arrived:
                self._waiting = Deferred()
                await self._waiting
            delivery = self._arrived.popleft()
            if first is None:
                first = cast("int", (delivery.properties.headers or {})["x-stream-offset"])
            over = delivery.body == marker
            for event in _events_in(rebase_copy(delivery.body, first)):
                if not _is_marker(event) and b"\n" not in event:
                    self._out.write(b"%d %b\n" % (self._shard.index, event))
                    copied += 1
            if over or not self._arrived:
                channel.ack_all(delivery)
        await cancel(channel, tag)
        await channel.channel_close(reply_code=200, reply_text="done")
        return copied

    def _on_delivery(self, delivery: Delivery) -> None:
        self._arrived.append(delivery)
        self._wake(None)

    def _wake(self, reason: Exception | None) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        if reason is None:
            waiting.callback(None)
        else:
            waiting.errback(reason)


def _events_in(body: bytes) -> Sequence[bytes]:
    """Return the events of a journal's message. Each has a line of its own in a file of this
    version; 0.2.0 saves batches as they are.
    """
    try:
        return events_in(body)
    except UndecodableMessage:
        return (body,)


def _is_marker(body: bytes) -> bool:
    if b'"marker"' not in body:
        return False
    try:
        return isinstance(decode_event(body), Marker)
    except UndecodableMessage:
        return False


@frozen
class Contents:
    """What a backup holds: the numbers of shards and of events, and the ids of its open tasks."""

    shards: int
    events: int
    open_tasks: frozenset[bytes] = field(repr=False)


def examine(file: IO[bytes], name: str) -> Contents:
    """Read a whole backup. Raises `ConfigurationError` if it is no complete backup."""
    file.seek(0)
    header = _document(file.readline(MAX_LINE))
    if header.get("rtprov") != "backup":
        raise ConfigurationError(f"{name}: is not a backup of rtprov")
    shards = header.get("shards")
    if header.get("v") != VERSION or not isinstance(shards, int) or not 1 <= shards <= MAX_SHARDS:
        raise ConfigurationError(f"{name}: was made by another version of rtprov")
    begun: set[bytes] = set()
    started: set[bytes] = set()
    ended: set[bytes] = set()
    events = 0
    for _, line in _events(file, name, shards):
        events += 1
        for body in _events_in(line):
            try:
                event = decode_event(body)
            except UndecodableMessage:
                continue
            if isinstance(event, Requested) and event.whole:
                begun.add(event.task_id.encode())
            elif isinstance(event, Started):
                started.add(event.task_id.encode())
            elif isinstance(event, Finished) or (
                isinstance(event, Cancelled) and event.task_id.encode() not in started
            ):
                ended.add(event.task_id.encode())
    return Contents(shards, events, frozenset(begun - ended))


def _document(line: bytes) -> dict[str, object]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _events(file: IO[bytes], name: str, shards: int) -> Iterator[tuple[int, bytes]]:
    """Yield the shard and the message of each event, from the second line on.

    Raises `ConfigurationError` if the end is missing.
    """
    events = 0
    while line := file.readline(MAX_LINE):
        if line.startswith(b"{"):
            if _document(line) != {"rtprov": "end", "events": events} or file.read(1):
                break
            return
        index, _, body = line.partition(b" ")
        known = index.isdigit() and len(index) <= MAX_DIGITS and int(index) < shards
        if not known or not body.endswith(b"\n"):
            break
        events += 1
        yield int(index), body[:-1]
    raise ConfigurationError(f"{name}: is damaged after {events} events, or not complete")


class Restore:
    """Fills an empty broker from a backup.

    `name` is the file's name in errors. `say` is called with each line for the operator. If it is
    interrupted, another run completes it; nothing else connects to the broker meanwhile.
    """

    def __init__(
        self, side: Side, file: IO[bytes], name: str, *, say: Callable[[str], None]
    ) -> None:
        self._side = side
        self._file = file
        self._name = name
        self._say = say

    async def run(self) -> None:
        """Publish everything. Raises `ConfigurationError`, `BrokerError`, OSError of the file."""
        contents = examine(self._file, self._name)
        connection = self._side.connection
        mark = Remembered(contents.shards, MOVING)
        await self._check_empty(mark)
        await remember(connection, mark, CHANGE_QUEUE)
        await store(connection, mark)
        shards = [Shard(index, contents.shards) for index in range(contents.shards)]
        await Topology(shards).attach(connection)
        opened = await self._publish(contents, shards)
        await store(connection, Remembered(contents.shards))
        await delete_queue(connection, CHANGE_QUEUE)
        self._say(
            f"{contents.events} events were restored (shards: {contents.shards}); tasks that had"
            f" not ended and will be called: {opened}"
        )

    async def _check_empty(self, mark: Remembered) -> None:
        connection = self._side.connection
        known = await read(connection, mark) or await read(connection, mark, CHANGE_QUEUE)
        if known is None:
            used = await count_of_earlier_version(connection) is not None
        else:
            used = known != mark
        if used:
            raise ConfigurationError(
                "The broker is in use: rtprov has run on it. Restore to an empty broker, or to a"
                " new virtual host"
            )

    async def _publish(self, contents: Contents, shards: list[Shard]) -> int:
        """Publish all events, and the open tasks after them; return the number of these."""
        self._file.seek(0)
        self._file.readline(MAX_LINE)
        publish = self._side.publisher.publish
        batch: list[Deferred[None]] = []
        queued: set[bytes] = set()
        for index, body in _events(self._file, self._name, contents.shards):
            batch.append(publish("", shards[index].journal, body, properties=persistent()))
            task = self._open_task(contents, body)
            if task is not None and task not in queued:
                queued.add(task)
                batch.append(publish("", shards[index].work, body, properties=persistent()))
            if len(batch) >= BATCH:
                await gather(batch)
                batch = []
        await gather(batch)
        return len(queued)

    @staticmethod
    def _open_task(contents: Contents, body: bytes) -> bytes | None:
        """Return the id of the open task whose message this is, None if it is another event."""
        try:
            event = decode_event(body)
        except UndecodableMessage:
            return None
        if not isinstance(event, Requested) or not event.whole:
            return None
        task = event.task_id.encode()
        return task if task in contents.open_tasks else None

"""Paging of a long queue: what is in memory, and failed reads from the storage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from pamqp.commands import Basic
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.codec import decode_header, encode_header
from rtprov.broker.engine import backlog, memory_alarm
from rtprov.broker.engine.queue import Queue
from rtprov.broker.engine.virtual_host import VirtualHost
from rtprov.broker.messages import Entry, Message
from rtprov.broker.storage import memory as memory_storage
from rtprov.broker.storage.interface import Record
from rtprov.broker.storage.memory import MemoryStorage


class Troubled(MemoryStorage):
    """A storage whose loads fail whenever the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[Deferred[Sequence[Record]]] = []

    def load(self, queue: str, after: int, upto: int) -> Deferred[Sequence[Record]]:
        page: Deferred[Sequence[Record]] = Deferred()
        self.loads.append(page)
        return page


class Consumer:
    """Takes a message whenever the test wants one."""

    def __init__(self) -> None:
        self.ready = False
        self.taken: list[Entry] = []

    def deliver(self, entry: Entry, header: bytes) -> None:
        self.ready = False
        self.taken.append(entry)

    def cancelled(self) -> None: ...


class PagingCase(SynchronousTestCase):
    def start(self, storage: MemoryStorage) -> None:
        """Return a virtual host with a durable queue."""
        self.clock, names = Clock(), count()
        self.virtual_host = VirtualHost(
            storage=storage,
            memory=memory_alarm.Memory(limit=2**28, on_change=lambda full: None),
            now=self.clock.seconds,
            new_name=lambda: f"{next(names)}",
            after_work=lambda: None,
        )
        quorum = {"x-queue-type": "quorum"}
        queue = self.virtual_host.declare_queue(
            "q",
            passive=False,
            durable=True,
            exclusive=False,
            auto_delete=False,
            arguments=quorum,
            owner=self,
        )
        assert isinstance(queue, Queue)
        self.queue = queue

    def publish(self, body: bytes = b"", **properties: Any) -> None:
        header = encode_header(Basic.Properties(**properties), len(body))
        self.virtual_host.publish(Message("", "q", decode_header(header).properties, header, body))


class Memory(PagingCase):
    def test_large_messages(self) -> None:
        """However large the messages of a long queue are, those in memory stay within the limit,
        also while further pages are read.
        """
        self.patch(backlog, "RESIDENT_BYTES", 20_000)
        self.patch(memory_storage, "PAGE_BYTES", 10_000)
        self.start(MemoryStorage())
        for number in range(200):
            self.publish(b"%d" % number + bytes(1000))
        consumer = Consumer()
        self.queue.add_consumer(consumer, {})
        used = []
        for _ in range(200):
            consumer.ready = True
            self.queue.pump()
            used.append(self.virtual_host.memory.used)
        self.assertEqual(
            [int(entry.message.body.rstrip(b"\0")) for entry in consumer.taken], list(range(200))
        )
        self.assertLess(max(used), 25_000)
        self.assertEqual(used[-1], 0)


class Unreadable(PagingCase):
    def test_tried_again(self) -> None:
        """After a page could not be read, the next publish triggers another read, with or without a
        consumer.
        """
        self.patch(backlog, "RESIDENT_MESSAGES", 2)
        troubled = Troubled()
        self.start(troubled)
        for _ in range(3):
            self.publish(expiration="1000")
        self.clock.advance(1)
        self.virtual_host.expire()
        troubled.loads.pop().errback(OSError("the disk is gone"))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.publish(expiration="1000")
        self.assertEqual(len(troubled.loads), 1)
        self.assertEqual(self.queue.message_count, 2)

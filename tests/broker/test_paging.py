"""A long queue whose messages cannot be read from the storage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from pamqp.commands import Basic
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.codec import encode_header
from rtprov.broker import backlog
from rtprov.broker.engine import Engine
from rtprov.broker.messages import Message
from rtprov.broker.storage import MemoryStorage, Record


class Troubled(MemoryStorage):
    """Fails to load whenever the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[Deferred[Sequence[Record]]] = []

    def load(self, queue: str, after: int, upto: int) -> Deferred[Sequence[Record]]:
        page: Deferred[Sequence[Record]] = Deferred()
        self.loads.append(page)
        return page


class Unreadable(SynchronousTestCase):
    def test_tried_again(self) -> None:
        """Once a page could not be read, the next publish has it read again, whether anybody consumes the queue or not."""
        self.patch(backlog, "RESIDENT_MESSAGES", 2)
        clock, storage, names = Clock(), Troubled(), count()
        engine = Engine(storage=storage, now=clock.seconds, new_name=lambda: f"{next(names)}")
        quorum = {"x-queue-type": "quorum"}
        queue = engine.declare_queue("q", passive=False, durable=True, exclusive=False, auto_delete=False, arguments=quorum, owner=self)
        properties = Basic.Properties(expiration="1000")
        message = Message("", "q", properties, encode_header(properties, 0), b"")
        for _ in range(3):
            engine.publish(message)
        clock.advance(1)
        engine.expire()
        storage.loads.pop().errback(OSError("the disk is gone"))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        engine.publish(message)
        self.assertEqual(len(storage.loads), 1)
        self.assertEqual(queue.message_count, 2)

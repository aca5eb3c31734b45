"""The storages of the embedded broker under test, and records to store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pamqp.commands import Basic
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.codec import encode_header
from rtprov.broker.messages import Message
from rtprov.broker.storage.interface import Record
from rtprov.broker.storage.sqlite import SqliteStorage

if TYPE_CHECKING:
    _Case = SynchronousTestCase
else:
    _Case = object


def message(body: bytes) -> Message:
    properties = Basic.Properties(delivery_mode=2, headers={"имя": "ключ"})
    return Message("exchange", "ключ", properties, encode_header(properties, len(body)), body)


def record(
    position: int, body: bytes = b"", *, time: float = 0.0, expires_at: float | None = None
) -> Record:
    return Record(position, time, message(body or b"%d" % position), expires_at)


class Writer:
    """A fake writer thread: it runs each call at once or, if `held`, when the test says so."""

    def __init__(self) -> None:
        self.held = False
        self.calls: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def run(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if not self.held:
            return maybeDeferred(function, *arguments)
        done: Deferred[Any] = Deferred()
        self.calls.append((done, lambda: function(*arguments)))
        return done

    def step(self) -> None:
        done, call = self.calls.pop(0)
        maybeDeferred(call).chainDeferred(done)


class SqliteCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.writer = Writer()
        self.directory = Path(self.mktemp())
        self.closed: list[SqliteStorage] = []

    def open(self) -> SqliteStorage:
        storage = SqliteStorage(directory=self.directory, run=self.writer.run, clock=self.clock)
        self.addCleanup(self.close, storage)
        return storage

    def close(self, storage: SqliteStorage) -> None:
        self.writer.held = False
        if storage not in self.closed:
            storage.close()

    def reopen(self, storage: SqliteStorage) -> SqliteStorage:
        """Close the storage, and open it again."""
        self.successResultOf(storage.close())
        self.closed.append(storage)
        return self.open()

"""The embedded broker as a whole: a factory of connections to one engine, its alarms, and what
happens with no client's doing.

`make_broker` is the way in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from rtprov.broker.engine.virtual_host import Engine
from rtprov.broker.server.connection import BrokerProtocol
from rtprov.broker.storage.interface import Storage

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from rtprov.broker.server.direct_reply import Replies


@attrs.frozen
class Limits:
    """What one client may take. Sizes in bytes, times in seconds.

    Who leaves more than `backlog_bytes` unread is not listened to until it has read that; nor is a
    publisher while messages in all queues together take more than `memory_bytes` of memory.
    Unfinished messages of all clients together may take `unfinished_bytes`. A method that waits
    longer than `reading_s` for messages from the disk costs the connection."""

    connections: int = 1000
    channels: int = 2047
    frame_bytes: int = 131072
    body_bytes: int = 16 * 1024 * 1024
    backlog_bytes: int = 4 * 1024 * 1024
    memory_bytes: int = 256 * 1024 * 1024
    unfinished_bytes: int = 128 * 1024 * 1024
    handshake_s: float = 10.0
    closing_s: float = 5.0
    reading_s: float = 30.0
    heartbeat_s: int = 60


class BrokerFactory(Factory):
    """Connections to one engine. `credentials` maps user names to passwords. `stop` ends all
    connections and leaves no timer.

    `new_token` gives words that were never said before, by an earlier broker on the same state
    either. `unfinished_bytes` is what has come of messages that are not complete, of all clients.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        *,
        engine: Engine,
        credentials: Mapping[str, str],
        clock: IReactorTime,
        limits: Limits,
        new_token: Callable[[], str],
    ) -> None:
        self.engine = engine
        self.credentials = credentials
        self.clock = clock
        self.limits = limits
        self.replies: dict[str, Replies] = {}  # by their addresses
        self.connections: dict[BrokerProtocol, None] = {}  # an ordered set
        self._alarms: dict[str, str] = {}
        self.new_token = new_token
        self.unfinished_bytes = 0
        self._stopped = self._crowded = False
        self._gone: Deferred[None] | None = None
        self._expiration: IDelayedCall | None = None
        self._going_on: IDelayedCall | None = None
        engine.storage.on_trouble = self._on_disk_trouble
        engine.memory.limit = limits.memory_bytes
        engine.memory.on_change = self._on_memory
        engine.after_work = self._after_work

    def startFactory(self) -> None:
        self.engine.wake()
        self._watch_expiration()

    def buildProtocol(self, addr: IAddress | None) -> BrokerProtocol | None:  # type: ignore[override] # not made by Factory's `protocol`
        if len(self.connections) >= self.limits.connections:
            if not self._crowded:
                self._log.warn(
                    "{count} connections are open: no more are taken until one ends",
                    count=len(self.connections),
                )
            self._crowded = True
            return None
        return BrokerProtocol(self)

    # Alarms: publishers are told once when the first begins, and once when the last is over.

    @property
    def alarm(self) -> str | None:
        """Why publishers are to wait; None where they need not."""
        return next(iter(self._alarms.values()), None)

    def _on_disk_trouble(self, reason: str | None) -> None:
        self._set_alarm("disk", reason)

    def _on_memory(self, full: bool) -> None:
        if full:
            self._log.warn(
                "messages in memory take {bytes} bytes: publishers wait",
                bytes=self.engine.memory.used,
            )
        else:
            self._log.info(
                "messages in memory take {bytes} bytes: publishers go on",
                bytes=self.engine.memory.used,
            )
            if self._going_on is None and not self._stopped:
                # who made room is in the middle of something
                self._going_on = self.clock.callLater(0, self._go_on)
        self._set_alarm("memory", "low on memory" if full else None)

    def _go_on(self) -> None:
        self._going_on = None
        for connection in list(self.connections):
            connection.on_room()

    def _set_alarm(self, name: str, reason: str | None) -> None:
        before = self.alarm
        if reason is None:
            self._alarms.pop(name, None)
        else:
            self._alarms[name] = reason
        if (before is None) != (self.alarm is None):
            for connection in list(self.connections):
                connection.tell_alarm()

    def stop(self) -> Deferred[None]:
        """Close every connection in the orderly way, those that do not answer after a while. Fires
        when all are gone.
        """
        self._stopped = True
        for call in (self._expiration, self._going_on):
            if call is not None and call.active():
                call.cancel()
        self._expiration = self._going_on = None
        for connection in self.connections:
            connection.retire()  # all of them first: what one gives back is not for the next
        for connection in list(self.connections):
            connection.close_for_shutdown()
        if not self.connections:
            return succeed(None)
        self._gone = Deferred()
        return self._gone

    def forget(self, connection: BrokerProtocol) -> None:
        """The connection is gone."""
        self.connections.pop(connection, None)
        self._crowded = False
        if not self.connections and self._gone is not None:
            gone, self._gone = self._gone, None
            gone.callback(None)

    def end_turn(self) -> Deferred[None]:
        """Make all that was done safe, and fire when it is; have the next message that expires be
        dropped when it does.
        """
        self._watch_expiration()
        return self.engine.commit()

    def _watch_expiration(self) -> None:
        due, call = self.engine.next_expiration, self._expiration
        if due is None or self._stopped:
            return
        if call is not None and call.getTime() > due:
            call.cancel()
            call = None
        if call is None:
            self._expiration = self.clock.callLater(
                max(0.0, due - self.clock.seconds()), self._expire
            )

    def _expire(self) -> None:
        self._expiration = None
        self.engine.expire()
        self._after_work()

    def _after_work(self) -> None:
        """What no client set off has come to an end: the turn of nobody."""
        self.end_turn().addErrback(lambda reason: self._log.failure("a commit failed", reason))


def make_broker(
    *,
    clock: IReactorTime,
    storage: Storage,
    username: str = "guest",
    password: str = "guest",  # noqa: S107
    max_age_s: float | None = None,
) -> BrokerFactory:
    """A broker with one virtual host ``/`` and one user. `clock`'s seconds are taken as seconds
    since the epoch; see `Engine`.
    """
    start, number = int(clock.seconds() * 1000), count(1)

    def new_name() -> str:
        """A word that no broker on this state has said before: what an earlier one has named may
        still be asked for.
        """
        return f"{start:x}.{next(number):x}"

    engine = Engine(storage=storage, now=clock.seconds, new_name=new_name, max_age_s=max_age_s)
    return BrokerFactory(
        engine=engine,
        credentials={username: password},
        clock=clock,
        limits=Limits(),
        new_token=new_name,
    )

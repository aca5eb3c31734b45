"""The embedded broker as a whole: its virtual host, its clients, its alarms, its reply addresses,
and the work that no client set off.

In order of use: `make_broker`, serve it with a `rtprov.broker.server.factory.BrokerFactory`,
`stop`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from rtprov.broker.engine.memory_alarm import Memory
from rtprov.broker.engine.virtual_host import VirtualHost
from rtprov.broker.server.limits import Limits

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.broker.messages import Message
    from rtprov.broker.storage.interface import Storage


class Connection(Protocol):
    """What the broker asks of each client's connection."""

    def tell_alarm(self) -> None:
        """An alarm begins or is over: tell the client, if it wants to know."""

    def on_room(self) -> None:
        """There is room in memory again: read on if that was awaited."""

    def retire(self) -> None:
        """The broker is about to stop: deliver nothing more to this client."""

    def close_for_shutdown(self) -> None:
        """The broker stops: close the connection."""


class ReplyAddress(Protocol):
    """Where replies to one channel's requests go (direct reply-to)."""

    def deliver(self, message: Message) -> None:
        """Send the reply, or drop it."""


class Broker:
    """One virtual host and the clients connected to it. `credentials` maps user names to passwords.

    `new_token` returns a word that no broker on the same state has said before.
    `replies` are the reply addresses in use. `unfinished_bytes` counts the received parts of
    messages that are not complete, of all clients. For `max_age_s` see `VirtualHost`."""

    _log = Logger()

    def __init__(
        self,
        *,
        storage: Storage,
        credentials: Mapping[str, str],
        clock: IReactorTime,
        limits: Limits,
        new_token: Callable[[], str],
        max_age_s: float | None = None,
    ) -> None:
        self.credentials = credentials
        self.clock = clock
        self.limits = limits
        self.new_token = new_token
        self.replies: dict[str, ReplyAddress] = {}
        self.connections: dict[Connection, None] = {}  # an ordered set
        self.unfinished_bytes = 0
        self._alarms: dict[str, str] = {}
        self._stopped = self._crowded = False
        self._gone: Deferred[None] | None = None
        self._expiration: IDelayedCall | None = None
        self._going_on: IDelayedCall | None = None
        self._memory = Memory(limits.memory_bytes, self._on_memory)
        self.virtual_host = VirtualHost(
            storage=storage,
            memory=self._memory,
            now=clock.seconds,
            new_name=new_token,
            after_work=self.after_work,
            max_age_s=max_age_s,
        )
        storage.on_trouble = self._on_disk_trouble

    def start(self) -> None:
        """Expire messages from now on, those of earlier runs included."""
        self.virtual_host.wake()
        self._watch_expiration()

    def stop(self) -> Deferred[None]:
        """Close every connection in the orderly way, and abort those that do not answer in time.
        Fires when all are gone; no timer is left.
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

    # Connections.

    def admits(self) -> bool:
        """Whether one more client may connect. If not, the log says so once, until one leaves."""
        if len(self.connections) < self.limits.connections:
            return True
        if not self._crowded:
            self._log.warn(
                "{count} connections are open: no more are taken until one ends",
                count=len(self.connections),
            )
        self._crowded = True
        return False

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self.connections.pop(connection, None)
        self._crowded = False
        if not self.connections and self._gone is not None:
            gone, self._gone = self._gone, None
            gone.callback(None)

    # Alarms: publishers are told once when the first begins, and once when the last is over.

    @property
    def alarm(self) -> str | None:
        """Why publishers are to wait; None if they need not."""
        return next(iter(self._alarms.values()), None)

    def _on_disk_trouble(self, reason: str | None) -> None:
        self._set_alarm("disk", reason)

    def _on_memory(self, full: bool) -> None:
        if full:
            self._log.warn(
                "messages in memory take {bytes} bytes: publishers wait", bytes=self._memory.used
            )
        else:
            self._log.info(
                "messages in memory take {bytes} bytes: publishers go on", bytes=self._memory.used
            )
            if self._going_on is None and not self._stopped:
                # Later, because the caller that made room is not finished.
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

    # The end of a reactor turn.

    def commit(self) -> Deferred[None]:
        """Make all that was done so far safe; fire when it is. The next expiration is scheduled."""
        self._watch_expiration()
        return self.virtual_host.commit()

    def after_work(self) -> None:
        """Commit work that no client set off."""
        self.commit().addErrback(lambda reason: self._log.failure("a commit failed", reason))

    def _watch_expiration(self) -> None:
        due, call = self.virtual_host.next_expiration, self._expiration
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
        self.virtual_host.expire()
        self.after_work()


def make_broker(
    *,
    clock: IReactorTime,
    storage: Storage,
    username: str = "guest",
    password: str = "guest",  # noqa: S107
    max_age_s: float | None = None,
) -> Broker:
    """A broker with one virtual host ``/`` and one user. `clock`'s seconds are taken as seconds
    since the epoch; see `VirtualHost`.
    """
    start, number = int(clock.seconds() * 1000), count(1)

    def new_token() -> str:
        """A word that no broker on this state has said before: names that an earlier one gave may
        still be asked for.
        """
        return f"{start:x}.{next(number):x}"

    return Broker(
        storage=storage,
        credentials={username: password},
        clock=clock,
        limits=Limits(),
        new_token=new_token,
        max_age_s=max_age_s,
    )

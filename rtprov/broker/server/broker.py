"""The embedded broker: its virtual host, connections, alarms, reply addresses and timers.

In order of use: call `make_broker`, serve the result with a
`rtprov.broker.server.factory.BrokerFactory`, and call `stop`.
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
    """The methods of a client's connection that the broker calls."""

    def tell_alarm(self) -> None:
        """Send ``connection.blocked`` or ``connection.unblocked``, if the client supports them."""

    def on_memory_free(self) -> None:
        """Continue reading from a publisher that waited for free memory."""

    def retire(self) -> None:
        """Stop delivering to this client, because the broker is about to stop."""

    def close_for_shutdown(self) -> None:
        """Close the connection, because the broker stops."""


class ReplyAddress(Protocol):
    """The destination of replies to the requests of one channel (direct reply-to)."""

    def deliver(self, message: Message) -> None:
        """Send the reply, or drop it if it cannot be written now."""


class Broker:
    """A virtual host and the clients connected to it.

    - `credentials`: maps user names to passwords.
    - `clock`: its seconds are seconds since the epoch.
    - `new_token`: returns a string that no broker has returned before on the same state.
    - `max_age_s`: see `VirtualHost`.
    - `replies`: the reply addresses in use.
    - `connections`: the open connections, used as an ordered set.
    - `unfinished_bytes`: bytes of incompletely received messages, of all clients.
    """

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
        self.connections: dict[Connection, None] = {}
        self.unfinished_bytes = 0
        self._alarms: dict[str, str] = {}
        self._stopped = self._crowded = False
        self._gone: Deferred[None] | None = None
        self._expiration: IDelayedCall | None = None
        self._continuing: IDelayedCall | None = None
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
        """Start expiring messages, including those from before a restart."""
        self.virtual_host.wake()
        self._watch_expiration()

    def stop(self) -> Deferred[None]:
        """Close all connections, and abort those that do not reply in time.

        The Deferred fires when all are closed. No timer is left then.
        """
        self._stopped = True
        for call in (self._expiration, self._continuing):
            if call is not None and call.active():
                call.cancel()
        self._expiration = self._continuing = None
        for connection in self.connections:
            # Retire all connections first, so that requeued messages do not go to another of them.
            connection.retire()
        for connection in list(self.connections):
            connection.close_for_shutdown()
        if not self.connections:
            return succeed(None)
        self._gone = Deferred()
        return self._gone

    # Connections.

    def admits(self) -> bool:
        """Return whether one more client may connect.

        The first refusal is logged, and again after a connection has closed.
        """
        if len(self.connections) < self.limits.connections:
            return True
        if not self._crowded:
            self._log.warn(
                "refusing new connections: {count} are open, which is the limit; accepting again"
                " when one closes",
                count=len(self.connections),
            )
        self._crowded = True
        return False

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self.connections.pop(connection, None)
        self._crowded = False
        if not self.connections and self._gone is not None:
            gone, self._gone = self._gone, None
            gone.callback(None)

    # Alarms. Clients get connection.blocked when the first alarm starts, and connection.unblocked
    # when the last one ends.

    @property
    def alarm(self) -> str | None:
        """The reason why publishers must wait, or None if there is no alarm."""
        return next(iter(self._alarms.values()), None)

    def _on_disk_trouble(self, reason: str | None) -> None:
        self._set_alarm("disk", reason)

    def _on_memory(self, full: bool) -> None:
        if full:
            self._log.warn(
                "messages in memory use {bytes} bytes, more than the limit of {limit}: publishers"
                " wait",
                bytes=self._memory.used,
                limit=self._memory.limit,
            )
        else:
            self._log.info(
                "messages in memory use {bytes} bytes: publishers continue",
                bytes=self._memory.used,
            )
            if self._continuing is None and not self._stopped:
                # In the next turn, because the caller that freed the memory is still running.
                self._continuing = self.clock.callLater(0, self._continue_publishers)
        self._set_alarm("memory", "low on memory" if full else None)

    def _continue_publishers(self) -> None:
        self._continuing = None
        for connection in list(self.connections):
            connection.on_memory_free()

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
        """Commit all changes so far, and schedule the next expiration.

        The Deferred fires once the changes are on disk.
        """
        self._watch_expiration()
        return self.virtual_host.commit()

    def after_work(self) -> None:
        """Commit work that was not caused by a client, such as expiration."""
        self.commit().addErrback(
            lambda reason: self._log.failure("a commit of the broker's own work failed", reason)
        )

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
    password: str = "guest",  # noqa: S107 - as in RabbitMQ; public only on loopback
    max_age_s: float | None = None,
) -> Broker:
    """Return a broker with one virtual host, ``/``, and one user.

    The seconds of `clock` must be seconds since the epoch. For `max_age_s`, see `VirtualHost`.
    """
    start, number = int(clock.seconds() * 1000), count(1)

    def new_token() -> str:
        """Return a string that was not returned before, not even before a restart.

        Clients may still use names that the broker generated before it was restarted.
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

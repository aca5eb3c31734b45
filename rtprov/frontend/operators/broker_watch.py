"""The state of the front end's connection to the broker, and the number of parked letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from rtprov.errors import AmqpError, BrokerError
from rtprov.messaging.topology import PARKED_QUEUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtprov.amqp.client.protocol import AmqpConnection

COUNTED_FOR_S = 5.0


class BrokerState(Protocol):
    """What a summary says of the broker."""

    @property
    def connected(self) -> bool:
        """Whether the front end is connected."""

    @property
    def blocked(self) -> bool:
        """Whether the broker takes no messages at present (``connection.blocked``)."""

    @property
    def parked(self) -> int | None:
        """The number of parked letters, None if it is not known."""


class BrokerWatch:
    """The implementation of `BrokerState`: a session of the front end's connection.

    The parked letters are counted by a passive declaration of their queue (AMQP 0-9-1 §1.7.2.1),
    first when the connection is made, then when they are asked for, at most every five seconds.
    `seconds` gives the time of a monotonic clock.
    """

    _log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._connection: AmqpConnection | None = None
        self._parked: int | None = None
        self._counted_at = 0.0
        self._counting: Deferred[None] | None = None

    async def attach(self, connection: AmqpConnection) -> None:
        """Count for the first time. Raises `BrokerError` if the connection is lost."""
        await self._count(connection)
        self._connection = connection

    def detach(self) -> None:
        """The connection is closed."""
        self._connection = None
        if self._counting is not None:
            self._counting.cancel()

    @property
    def connected(self) -> bool:
        """See `BrokerState.connected`."""
        return self._connection is not None and not self._connection.closed

    @property
    def blocked(self) -> bool:
        """See `BrokerState.blocked`."""
        return self._connection is not None and self._connection.blocked

    @property
    def parked(self) -> int | None:
        """See `BrokerState.parked`. The number may be a few seconds old."""
        due = self._seconds() - self._counted_at >= COUNTED_FOR_S
        may = self._parked is not None and self._connection is not None and self._counting is None
        if due and may:
            self._count_again()
        return self._parked

    def _count_again(self) -> None:
        assert self._connection is not None
        counting = self._counting = Deferred.fromCoroutine(self._count(self._connection))
        counting.addErrback(lambda reason: reason.trap(BrokerError, CancelledError))
        counting.addErrback(
            lambda reason: self._log.failure("could not count the parked letters", reason)
        )
        counting.addCallback(self._counted)

    def _counted(self, _: object) -> None:
        self._counting = None

    async def _count(self, connection: AmqpConnection) -> None:
        channel = await connection.open_channel()
        self._counted_at = self._seconds()
        try:
            declared = await channel.queue_declare(queue=PARKED_QUEUE, passive=True)
        except AmqpError:
            self._parked = None  # this user may not see the queue; do not ask again
            return
        self._parked = declared.message_count
        await channel.channel_close(reply_code=200, reply_text="done")

"""Declare exchanges, queues and bindings again every 10 s, in case an operator has deleted some.

A broker does not notify its clients when an exchange is deleted or a binding is removed. Declaring
what exists changes nothing. All declarations together cost one write and one answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.messaging.topology import Topology

EVERY_S = 10.0


class Upkeep:
    """Declares what `topology` has, and binds the worker's own queues.

    It is the last session of a worker's connection. `own` returns the names of the worker's own
    queues, each with its routing key at `STATUS_EXCHANGE`.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        topology: Topology,
        own: Callable[[], Iterable[tuple[str, str]]],
        clock: IReactorTime,
    ) -> None:
        self._topology = topology
        self._own = own
        self._connection: AmqpConnection | None = None
        self._channel: AmqpChannel | None = None
        self._declaring: Deferred[None] | None = None
        self._complaint = ""
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    async def attach(self, connection: AmqpConnection) -> None:
        """Start to declare everything again, every 10 s."""
        self._connection = connection
        looking = self._looking.start(EVERY_S, now=False)
        looking.addErrback(
            lambda reason: self._log.failure(
                "queues and bindings are no longer declared again", reason
            )
        )

    def detach(self) -> None:
        """Stop: the connection is closed."""
        self._connection = self._channel = None
        if self._looking.running:
            self._looking.stop()
        if self._declaring is not None:
            self._declaring.cancel()

    def _look(self) -> None:
        if self._connection is None or self._declaring is not None:
            return
        declaring = Deferred.fromCoroutine(self._declare(self._connection))
        if not declaring.called:
            self._declaring = declaring
        declaring.addBoth(self._declared)

    async def _declare(self, connection: AmqpConnection) -> None:
        if self._channel is None or self._channel.closed:
            self._channel = await connection.open_channel(fatal=False)
        await self._topology.keep(self._channel, self._own())

    def _declared(self, result: Failure | None) -> None:
        self._declaring = None
        if result is None:
            self._complaint = ""
        elif not result.check(BrokerError, CancelledError):
            self._log.failure("exchanges, queues and bindings could not be declared again", result)
        elif (
            result.check(BrokerError)
            and self._connection is not None
            and str(result.value) != self._complaint
        ):
            self._complaint = str(result.value)
            self._log.warn(
                "exchanges, queues and bindings could not be declared again, in case one was"
                " deleted; trying again every {seconds:.0f} s: {error}",
                event="broker.not_declared",
                seconds=EVERY_S,
                error=self._complaint,
            )

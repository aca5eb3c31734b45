"""The number of parked letters, for metrics: the broker is asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.errors import BrokerError
from rtprov.messaging.topology import PARKED_QUEUE

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.protocol import AmqpConnection

ASK_EVERY_S = 15.0


class ParkedCount:
    """Asks the broker every `ASK_EVERY_S` seconds how many letters are parked.

    A session of the worker's connection; attach it after the topology. `letters` is the latest
    answer, None if there is none.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._connection: AmqpConnection | None = None
        self._channel: AmqpChannel | None = None
        self._asking: Deferred[None] | None = None
        self._timer = LoopingCall(self._ask)
        self._timer.clock = clock
        self.letters: int | None = None

    async def attach(self, connection: AmqpConnection) -> None:
        """Start to ask, once at once."""
        self._connection = connection
        asking = self._timer.start(ASK_EVERY_S)
        asking.addErrback(
            lambda reason: self._log.failure("parked letters are no longer counted", reason)
        )

    def detach(self) -> None:
        """Stop: the connection is closed."""
        self._connection = self._channel = self.letters = None
        if self._timer.running:
            self._timer.stop()
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self) -> None:
        if self._connection is None or self._asking is not None:
            return
        asking = Deferred.fromCoroutine(self._count(self._connection))
        if not asking.called:
            self._asking = asking
        asking.addBoth(self._asked)

    async def _count(self, connection: AmqpConnection) -> None:
        if self._channel is None or self._channel.closed:
            self._channel = await connection.open_channel(fatal=False)
        declared = await self._channel.queue_declare(queue=PARKED_QUEUE, passive=True)
        self.letters = int(declared.message_count)

    def _asked(self, result: Failure | None) -> None:
        self._asking = None
        if result is not None:
            self.letters = None
            if not result.check(BrokerError, CancelledError):
                self._log.failure("could not count the parked letters", result)

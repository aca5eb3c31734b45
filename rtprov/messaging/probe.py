"""A readiness check: does the broker confirm messages?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pamqp.commands import Basic
from twisted.internet.defer import TimeoutError

from rtprov.amqp.client.permissions import PROBE_KEY
from rtprov.errors import BrokerError, NotReady
from rtprov.messaging.topology import TASKS_EXCHANGE

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from rtprov.amqp.client.publisher import Publisher


PROBE_DEADLINE_S = 2.0


async def broker_confirms(publisher: Publisher, clock: IReactorTime) -> None:
    """Publish a message that no queue gets, and wait for the broker's confirm.

    Raises `NotReady` if it does not come within 2 s.
    """
    try:
        await publisher.publish(
            TASKS_EXCHANGE, PROBE_KEY, b"", properties=Basic.Properties(), mandatory=False
        ).addTimeout(PROBE_DEADLINE_S, clock)
    except (BrokerError, TimeoutError):
        raise NotReady("Not ready: the broker does not confirm messages") from None

"""What a role gets from the process that it lives in, and its connection to the broker."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from attrs import frozen
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from rtprov.amqp.client.service import BrokerConnection, Session
from rtprov.amqp.client.url import BrokerUrl
from rtprov.clocks import WallClock

MAX_UNCONFIRMED = 10_000
CONFIRM_DEADLINE_S = 4.0


@frozen
class Environment:
    """What a role gets from the process it lives in.

    `clock` is the awake clock that all deadlines run on (`rtprov.clocks`); `new_id` makes 32
    hexadecimal digits."""

    clock: IReactorTime
    wall_clock: WallClock
    rng: random.Random
    new_id: Callable[[], str]
    broker: IStreamClientEndpoint
    broker_url: BrokerUrl


def broker_connection(
    name: str, environment: Environment, sessions: Sequence[Session]
) -> BrokerConnection:
    return BrokerConnection(
        name=name,
        endpoint=environment.broker,
        url=environment.broker_url,
        clock=environment.clock,
        rng=environment.rng,
        sessions=sessions,
    )

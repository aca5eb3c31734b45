"""What every role needs from its process: clocks, random numbers, ids, and the broker's address."""

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
    """The clocks, random numbers, ids and broker of a process.

    `clock` runs all timers and deadlines (the awake clock of `rtprov.clocks`). `wall_clock` returns
    seconds since the epoch. `new_id` returns a new id of 32 hexadecimal digits.
    """

    clock: IReactorTime
    wall_clock: WallClock
    rng: random.Random
    new_id: Callable[[], str]
    broker: IStreamClientEndpoint
    broker_url: BrokerUrl


def broker_connection(
    name: str, environment: Environment, sessions: Sequence[Session]
) -> BrokerConnection:
    """Return a service that keeps a role connected to the broker.

    `name` is the role, for the log. `sessions` are attached to each new connection, in this order.
    """
    return BrokerConnection(
        name=name,
        endpoint=environment.broker,
        url=environment.broker_url,
        clock=environment.clock,
        rng=environment.rng,
        sessions=sessions,
    )

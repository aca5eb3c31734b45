"""The metrics of connections to the broker. All roles that have such a connection have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from rtprov.metrics.families import histogram, number

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from rtprov.amqp.client.publisher import Publisher
    from rtprov.amqp.client.service import BrokerConnection


class Connected(Protocol):
    """A role with a connection to the broker."""

    @property
    def connection(self) -> BrokerConnection: ...
    @property
    def publisher(self) -> Publisher: ...


def connection_metrics(roles: Sequence[Connected]) -> Iterator[Metric]:
    """Return the metrics of the connections of all `roles` of this process, at least one."""
    yield number(
        "rtprov_broker_connected",
        "Whether all connections of this process to the broker are up (1) or not (0)",
        float(all(role.connection.connected for role in roles)),
    )
    yield histogram(
        "rtprov_confirm_seconds",
        "Seconds until the broker confirmed a message",
        *(role.publisher.confirm_seconds for role in roles),
    )

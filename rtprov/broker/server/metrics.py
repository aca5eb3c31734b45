"""The metrics of the embedded broker: its queues, connections and memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtprov.metrics.families import gauge, number

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from rtprov.broker.server.broker import Broker

MOST_QUEUES = 5000
QUEUE = ["queue"]


def broker_metrics(broker: Broker) -> Iterator[Metric]:
    """Return the broker's metrics. Queues that end with their connections are left out."""
    queues = [
        queue for queue in broker.virtual_host.queues.values() if queue.durable and not queue.owner
    ][:MOST_QUEUES]
    yield gauge(
        "rtprov_broker_queue_messages",
        "Messages in a queue or stream that no consumer has yet",
        [((queue.name,), queue.message_count) for queue in queues],
        QUEUE,
    )
    yield gauge(
        "rtprov_broker_queue_consumers",
        "Consumers of a queue or stream",
        [((queue.name,), len(queue.consumers)) for queue in queues],
        QUEUE,
    )
    yield number(
        "rtprov_broker_connections", "Open connections of clients", len(broker.connections)
    )
    yield number(
        "rtprov_broker_memory_bytes",
        "Bytes that messages use in memory",
        broker.virtual_host.memory.used,
    )
    yield number(
        "rtprov_broker_blocked",
        "Whether publishers must wait, because memory or disk is short (1) or not (0)",
        float(broker.alarm is not None),
    )

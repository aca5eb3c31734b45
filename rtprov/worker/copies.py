"""Publishing to a work queue: copies of messages, and census markers.

A copy replaces a message that was held for long, or one that was lost. A crash after the copy's
confirm and before the acknowledgement of the original leaves both in the queue. So a copy is marked
by a header, and the worker checks it after a journal barrier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtprov.messaging.markers import encode_census
from rtprov.messaging.topology import persistent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pamqp.common import FieldTable
    from twisted.internet.defer import Deferred

    from rtprov.amqp.client.publisher import Publisher
    from rtprov.interfaces import Delivery
    from rtprov.messaging.topology import Shard

COPY_HEADER = "rtprov-copy"


def copied_at(delivery: Delivery) -> float | None:
    """Return when this copy was made, in seconds since the epoch; None if it is an original."""
    at = delivery.headers.get(COPY_HEADER)
    return float(at) if isinstance(at, int) else None


class WorkQueue:
    """Publishes messages to a shard's work queue, but not to its journal.

    All messages go over one channel, so the queue gets them in the order in which the methods were
    called. `copies` maps each task with a copy under way to the copy's number; `published` is the
    number of the last copy. `wall_clock` gives seconds since the epoch.
    """

    def __init__(
        self, *, shard: Shard, publisher: Publisher, wall_clock: Callable[[], float]
    ) -> None:
        self._shard = shard
        self._publisher = publisher
        self._wall_clock = wall_clock
        self.published = 0
        self.copies: dict[str, int] = {}

    def put(self, task_id: str, body: bytes, headers: Mapping[str, object]) -> Deferred[None]:
        """Publish a copy of the task's message; the Deferred fires when it is confirmed, and fails
        as `Publisher.publish` does.

        Of the message's headers, the ones with text are kept, except those of the broker (``x-…``).
        """
        self.published += 1
        self.copies[task_id] = self.published
        kept: FieldTable = {
            name: value
            for name, value in headers.items()
            if isinstance(value, str) and not name.startswith("x-")
        }
        return self._publish(body, {**kept, COPY_HEADER: int(self._wall_clock())})

    def put_marker(self, marker_id: str) -> Deferred[None]:
        """Publish a census marker. Fails as `Publisher.publish` does."""
        return self._publish(encode_census(marker_id), {})

    def delivered(self, task_id: str) -> None:
        """Call this when a message of the task has been delivered."""
        self.copies.pop(task_id, None)

    def delivered_upto(self, number: int) -> None:
        """Call this when all copies up to `number` have been delivered or are lost."""
        self.copies = {task_id: copy for task_id, copy in self.copies.items() if copy > number}

    def _publish(self, body: bytes, headers: FieldTable) -> Deferred[None]:
        properties = persistent()
        properties.headers = headers
        return self._publisher.publish(
            "", self._shard.work, body, properties=properties, mandatory=True
        )

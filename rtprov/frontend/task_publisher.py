"""Publish tasks and cancellations to the work queue and journal of their shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail

from rtprov.messaging.event_messages import encode_event, encode_task
from rtprov.messaging.topology import TASKS_EXCHANGE, Shard, persistent
from rtprov.model import Cancelled, Task, shard_of
from rtprov.tracing.traceparent import HEADER, own_traceparent

if TYPE_CHECKING:
    from collections.abc import Callable

    from pamqp.commands import Basic

    from rtprov.amqp.client.publisher import Publisher


class TaskPublisher:
    """The front end's implementation of `rtprov.interfaces.TaskSink`.

    `refusal` is called with a shard's number and the id of a sealing key. It returns an error if
    tasks with this key must not be sent to the shard (see `rtprov.queries.shared_keys`), else None.
    `repaired` is called after each confirm; a message is safe once its Deferred has fired, too
    (see `rtprov.messaging.topology.Topology.repaired`).
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        shards: int,
        refusal: Callable[[int, str | None], Exception | None],
        repaired: Callable[[], Deferred[None]],
    ) -> None:
        self._publisher = publisher
        self._shards = [Shard(index, shards) for index in range(shards)]
        self._refusal = refusal
        self._repaired = repaired

    def submit(self, task: Task) -> Deferred[None]:
        """See `rtprov.interfaces.TaskSink.submit`.

        If `refusal` returns an error, the Deferred fails with it, and nothing is published.
        """
        refusal = self._refusal(shard_of(task.equipment_id, len(self._shards)), task.key)
        if refusal is not None:
            return fail(refusal)
        shard = self._shards[shard_of(task.equipment_id, len(self._shards))]
        properties = persistent()
        # A worker knows the task's own trace without a header. All messages without one share one
        # encoded set of properties, which saves time in every process.
        if task.traceparent not in (None, own_traceparent(task.task_id)):
            properties.headers = {HEADER: task.traceparent}
        return self._publish(shard.requested_key, encode_task(task), properties)

    def cancel(self, task_id: str, equipment_id: str, at: float) -> Deferred[None]:
        """See `rtprov.interfaces.TaskSink.cancel`."""
        shard = self._shards[shard_of(equipment_id, len(self._shards))]
        body = encode_event(Cancelled(task_id, equipment_id, at))
        return self._publish(shard.event_key, body, persistent())

    def _publish(self, key: str, body: bytes, properties: Basic.Properties) -> Deferred[None]:
        published = self._publisher.publish(
            TASKS_EXCHANGE, key, body, properties=properties, mandatory=True
        )
        return published.addCallback(lambda _: self._repaired())

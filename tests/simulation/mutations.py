"""Mutations: bugs put in on purpose. Each is a mistake that a programmer could make, and the
simulation must find it.

    with MUTATIONS["lanes off"].switched_on():
        simulate(1)

The other modules whose names end in ``mutations`` register theirs here, too.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from rtprov.amqp.client.publisher import Publisher, _settle
from rtprov.amqp.client.rpc import RpcClient
from rtprov.broker.engine.queue import Queue
from rtprov.broker.engine.stream import Stream
from rtprov.broker.server.commit import PendingCommit, confirm
from rtprov.broker.server.consuming import Consuming
from rtprov.broker.storage.sqlite import SqliteStorage
from rtprov.equipment import client as equipment
from rtprov.errors import BrokerError, EquipmentSilent
from rtprov.frontend.task_publisher import TaskPublisher
from rtprov.journal.shard_journal import ShardJournal
from rtprov.journal.store import Store
from rtprov.messaging.event_messages import decode_task
from rtprov.messaging.markers import decode_census
from rtprov.messaging.status_messages import decode_status_request, encode_status_reply
from rtprov.model import Finished, State
from rtprov.queries.status import StatusServer
from rtprov.worker import shard_worker as worker
from rtprov.worker.attempts import Abandoned, Attempts
from rtprov.worker.device_queues import DeviceQueues
from rtprov.worker.job import Job
from rtprov.worker.missing_keys import MissingKeys
from rtprov.worker.shard_worker import ShardWorker
from tests.simulation import clock_mutations, operator_mutations, order_mutations, queue_mutations  # noqa: F401 - each adds its mutations
from tests.simulation.mutation import MUTATIONS, mutation

__all__ = ["MUTATIONS"]


# The worker.


@mutation("ack before finish", ShardWorker, "_carry_out")
async def _ack_first(self: Any, job: Any) -> None:
    outcome = await self._attempts.outcome(job)
    job.delivery.ack()
    if outcome is not None:
        state, reason = outcome
        await self._journal.append(
            Finished(job.task.task_id, job.task.equipment_id, self._wall_clock(), state, reason)
        )


_take_delivery = ShardWorker._on_delivery


@mutation("no adoption", ShardWorker, "_on_delivery")
def _no_adoption(self: Any, delivery: Any) -> None:
    if (
        decode_census(delivery.body) is not None
        or decode_task(delivery.body).task_id not in self.jobs
    ):
        _take_delivery(self, delivery)


@mutation("no judgement of redelivered tasks", Attempts, "_may_call")
async def _not_judged(self: Any, job: Any) -> bool:
    if not job.may_begin:
        raise Abandoned
    return True


mutation("a call begins without a delivery", Job, "may_begin")(property(lambda job: True))


@mutation("a task whose key is missing has failed", Attempts, "_has_key")
async def _no_waiting(self: Any, job: Any) -> bool:
    if not self._can_open(job):
        # NOT_FOUND is final too
        raise EquipmentSilent("The body is sealed with a key that is not in the key file")
    return True


@mutation("a task whose key is missing lets its device go on", MissingKeys, "wait_for")
def _no_room(self: Any, task_id: str, key: str | None) -> Deferred[None]:
    return fail(Abandoned())


@mutation("a task waits for its key for ever", MissingKeys, "_keys_changed")
def _unheard(self: Any) -> None:
    pass


@mutation("lanes off", worker, "DeviceQueues")
class _NoLanes(DeviceQueues[Any]):
    """Lanes that let every task go at once."""

    def enter(self, device: str, item: Any) -> bool:
        return True

    def leave(self, device: str) -> None:
        return None


@mutation("out of patience at once", Attempts, "_pause_s")
def _no_pause(self: Any, job: Any, retry_after_s: float | None) -> None:
    return None


_drain = ShardWorker.drain


@mutation("a stopping worker lets go of its consumer", ShardWorker, "drain")
async def _let_go(self: Any, deadline_s: float) -> None:
    for job in list(self.jobs.values())[:1]:
        channel = job.delivery._channel
        if not channel.closed:
            with suppress(BrokerError):
                await channel.basic_cancel(consumer_tag=next(iter(channel.consumers)))
    await _drain(self, deadline_s)


@mutation("every answer is a success", equipment, "interpret")
def _all_is_well(status: int, body: bytes) -> tuple[State, str]:
    return State.COMPLETED, "it looks well"


# The journal and the store.


@mutation("no barrier", ShardJournal, "barrier")
def _no_barrier(self: Any) -> Deferred[None]:
    return succeed(None)


_apply = Store.apply


@mutation("the last end wins", Store, "apply")
def _apply_last(self: Any, event: Any) -> None:
    _apply(self, event)
    if isinstance(event, Finished):
        self._records[event.task_id].state = event.state


# The front end.


_submit = TaskPublisher.submit


@mutation("answer before confirm", TaskPublisher, "submit")
def _submit_and_forget(self: Any, task: Any) -> Deferred[None]:
    _submit(self, task).addErrback(lambda _: None)
    return succeed(None)


@mutation("a lost confirm counts as one", Publisher, "_on_lost")
def _all_confirmed(self: Any, reason: Any) -> None:
    self._connection = self.channel = None
    if self._sweep_call is not None:
        self._sweep_call.cancel()
        self._sweep_call = None
    self._sweeps.clear()
    unconfirmed, self._unconfirmed = self._unconfirmed, {}
    for publish in unconfirmed.values():
        _settle(publish, None)


@mutation("requests are never forgotten", RpcClient, "_forget")
def _remember(self: Any, correlation_id: str) -> Any:
    request = self._requests.get(correlation_id)
    if request is not None and request.timer.active():
        request.timer.cancel()
    return None if request is None or request.reply.called else request


@mutation("unknown without a barrier", StatusServer, "_answer")
async def _answer_at_once(self: Any, request: bytes) -> bytes:
    pairs, _ = decode_status_request(request)
    return encode_status_reply(
        [self._replica.lookup(task_id, equipment_id) for task_id, equipment_id in pairs]
    )


# The broker.


@mutation("confirm before commit", PendingCommit, "commit")
def _confirm_first(self: Any) -> None:
    pumps, self._pumps = self._pumps, {}
    for queue in pumps:
        queue.pump()
    due, self._confirms = [(each, each.published) for each in self._confirms], {}
    confirm(due)
    self._broker.commit()


_publish = Stream.publish


@mutation("a stream shows what is not safe", Stream, "publish")
def _show_at_once(self: Any, message: Any) -> None:
    _publish(self, message)
    self.show(self._next_offset)


@mutation("what was settled stays on the disk", SqliteStorage, "removed")
def _stays(self: Any, queue: str, position: int) -> None:
    pass


@mutation("every consumer is active", Queue, "_next_consumer")
def _any_consumer(self: Any) -> Any:
    for place, consumer in enumerate(self.consumers):
        if consumer.ready:
            self.consumers.append(self.consumers.pop(place))
            return consumer
    return None


@mutation("what a lost connection held is gone", Consuming, "_give_back")
def _keep(self: Any, taken: Any, *, requeue: bool, lost: bool = False) -> None:
    pass

"""Wait for tasks to end: many clients share a few messages, without polling.

A front end collects all tasks that clients begin to wait for in one reactor turn. It sends one
subscription for them to the replicas of the shard. The replicas answer at once when a task ends. A
subscription is renewed after 10 s. A subscription that fails is tried again every second, so a lost
connection delays an answer by a second.

One timer serves all clients. It fires once a second and at the deadlines of clients, at most ten
times a second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtprov.errors import BrokerError, NoReply, UndecodableMessage
from rtprov.messaging.query_messages import Watch, decode_ended, encode, encode_ended
from rtprov.messaging.topology import STATUS_EXCHANGE, Shard
from rtprov.model import Cancelled, Event, Finished, State, shard_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.amqp.client.rpc import Reply, RpcClient
    from rtprov.interfaces import Replica

MAX_WAITING = 20_000
SLOT_S = 0.1  # the resolution of deadlines
LOOK_EVERY_S = 1.0  # how often to subscribe to tasks that have no subscription
MAX_BATCH = 500
RENEW_AFTER_S = 10.0
LONGEST_WATCH_S = 60.0

_Pair = tuple[str, str]
_Waiter = Deferred["State | None"]


@define(eq=False)
class _ShardBatch:
    """The tasks of one shard that clients wait for.

    `covered` are those with a subscription, `uncovered` those that get one soon. `scheduled` tells
    whether `_subscribe_scheduled` is scheduled.
    """

    shard: Shard
    waiters: dict[_Pair, dict[_Waiter, None]] = field(factory=dict)  # values are ordered sets
    covered: set[_Pair] = field(factory=set)
    uncovered: dict[_Pair, None] = field(factory=dict)
    scheduled: bool = False


class CompletionWatcher:
    """The front end's implementation of `rtprov.interfaces.Completions`."""

    _log = Logger()

    def __init__(self, *, rpc: RpcClient, shards: int, clock: IReactorTime) -> None:
        self._rpc = rpc
        self._clock = clock
        self._batches = [_ShardBatch(Shard(index, shards)) for index in range(shards)]
        # The waiters by deadline, in units of `SLOT_S`; each value is an ordered set.
        self._due: dict[int, dict[_Waiter, None]] = {}
        self._ticking: IDelayedCall | None = None
        self._tick_at_s = 0.0
        self._look_at_s = 0.0
        self._stopped = False
        self.waiting = 0

    @property
    def full(self) -> bool:
        """See `rtprov.interfaces.Completions.full`."""
        return self.waiting >= MAX_WAITING

    def wait(self, task_id: str, equipment_id: str, wait_s: float) -> Deferred[State | None]:
        """See `rtprov.interfaces.Completions.wait`. Cancel the Deferred to stop waiting."""
        if self._stopped:
            return succeed(None)
        shard_batch = self._batches[shard_of(equipment_id, len(self._batches))]
        pair = (task_id, equipment_id)
        waiter: _Waiter = Deferred()
        now = self._clock.seconds()
        due = math.floor((now + wait_s) / SLOT_S)
        self.waiting += 1
        self._due.setdefault(due, {})[waiter] = None
        shard_batch.waiters.setdefault(pair, {})[waiter] = None
        waiter.addBoth(self._leave, shard_batch, pair, due, waiter)
        if pair not in shard_batch.covered:
            shard_batch.uncovered[pair] = None
            self._soon(shard_batch)
        self._tick_by(min(due * SLOT_S, now + LOOK_EVERY_S))
        return waiter

    def stop(self) -> None:
        """Fire all waiting Deferreds with None, because the front end stops."""
        self._stopped = True
        for due in list(self._due.values()):
            _fire_all(list(due), None)
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def _leave(
        self,
        result: State | Failure | None,
        shard_batch: _ShardBatch,
        pair: _Pair,
        due: int,
        waiter: _Waiter,
    ) -> State | Failure | None:
        self.waiting -= 1
        others = self._due.get(due, {})
        others.pop(waiter, None)
        if not others:
            self._due.pop(due, None)
        waiters = shard_batch.waiters.get(pair, {})
        waiters.pop(waiter, None)
        if not waiters:
            shard_batch.waiters.pop(pair, None)
        return result

    # Time.

    def _tick_by(self, at_s: float) -> None:
        """Call `_tick` at this time of the clock, or earlier."""
        if self._ticking is not None:
            if self._tick_at_s <= at_s:
                return
            self._ticking.cancel()
        self._tick_at_s = at_s
        self._ticking = self._clock.callLater(max(0.0, at_s - self._clock.seconds()), self._tick)

    def _tick(self) -> None:
        self._ticking = None
        # A timer may fire a rounding error early.
        now = self._clock.seconds() + 0.001
        for due in [due for due in self._due if due * SLOT_S <= now]:
            _fire_all(list(self._due[due]), None)
        if now >= self._look_at_s:
            self._look_at_s = now + LOOK_EVERY_S
            for shard_batch in self._batches:
                self._subscribe_uncovered(shard_batch)
        if self.waiting:
            self._tick_by(min(self._look_at_s, min(self._due) * SLOT_S))

    # Subscriptions.

    def _soon(self, shard_batch: _ShardBatch) -> None:
        if not shard_batch.scheduled:
            shard_batch.scheduled = True
            self._clock.callLater(0, self._subscribe_scheduled, shard_batch)

    def _subscribe_scheduled(self, shard_batch: _ShardBatch) -> None:
        shard_batch.scheduled = False
        self._subscribe_uncovered(shard_batch)

    def _subscribe_uncovered(self, shard_batch: _ShardBatch) -> None:
        uncovered, shard_batch.uncovered = shard_batch.uncovered, {}
        pairs = [pair for pair in uncovered if pair in shard_batch.waiters]
        for start in range(0, len(pairs), MAX_BATCH):
            self._subscribe(shard_batch, pairs[start : start + MAX_BATCH])

    def _subscribe(self, shard_batch: _ShardBatch, batch: list[_Pair]) -> None:
        shard_batch.covered.update(batch)
        watch = encode(Watch(batch, RENEW_AFTER_S))
        subscription = self._rpc.subscribe(
            shard_batch.shard.inquiry,
            watch,
            exchange=STATUS_EXCHANGE,
            timeout_s=RENEW_AFTER_S,
            each=lambda body: self._on_ended(shard_batch, batch, body),
        )
        renewed_at = self._clock.seconds() + RENEW_AFTER_S
        subscription.addErrback(
            lambda reason: self._on_over(shard_batch, batch, reason, renewed_at)
        )
        subscription.addErrback(
            lambda reason: self._log.failure("a subscription to ends of tasks failed", reason)
        )

    def _on_over(
        self, shard_batch: _ShardBatch, batch: list[_Pair], reason: Failure, renewed_at: float
    ) -> None:
        """Handle the end of a subscription.

        If its time is over, it is renewed at once. If no replica accepted it, or the connection was
        lost, the next tick tries again.
        """
        reason.trap(BrokerError)
        shard_batch.covered.difference_update(batch)
        waited_for = [pair for pair in batch if pair in shard_batch.waiters]
        shard_batch.uncovered.update(dict.fromkeys(waited_for))
        if waited_for and reason.check(NoReply) and self._clock.seconds() >= renewed_at:
            self._soon(shard_batch)

    def _on_ended(self, shard_batch: _ShardBatch, batch: list[_Pair], body: bytes) -> None:
        try:
            ended = decode_ended(body)
        except UndecodableMessage as error:
            self._log.error(
                "shard {shard}: ignoring a worker's report of ended tasks: {error}",
                shard=str(shard_batch.shard),
                error=error,
            )
            return
        for index, state in ended:
            if 0 <= index < len(batch):
                _fire_all(list(shard_batch.waiters.pop(batch[index], ())), state)


def _fire_all(waiters: Sequence[_Waiter], state: State | None) -> None:
    """Fire each waiter that the callbacks of an earlier one have not cancelled."""
    for waiter in list(waiters):
        if not waiter.called:
            waiter.callback(state)


@define(eq=False)
class _Watch:
    """One subscription of a front end, with the ended tasks that are not yet reported."""

    reply: Reply
    pairs: list[tuple[str, str]]
    ended: list[tuple[int, State]] = field(factory=list)
    timer: IDelayedCall | None = None


class Watches:
    """The worker's part: reports to each subscription which of its tasks have ended.

    All tasks of a subscription that end in one reactor turn are reported in one message. The states
    come from `replica`.
    """

    def __init__(self, *, replica: Replica, clock: IReactorTime) -> None:
        self._replica = replica
        self._clock = clock
        self._by_task: dict[str, list[tuple[_Watch, int]]] = {}
        self._watches: dict[_Watch, None] = {}  # an ordered set

    @property
    def watched(self) -> int:
        """The number of tasks that front ends watch."""
        return len(self._by_task)

    def begin(self, question: Watch, reply: Reply) -> None:
        """Watch the tasks of `question`. `reply` is called with each message for the front end."""
        watch = _Watch(reply, question.tasks)
        for index, (task_id, equipment_id) in enumerate(question.tasks):
            state = self._replica.lookup(task_id, equipment_id)
            if state is not None and state.final:
                watch.ended.append((index, state))
            else:
                self._by_task.setdefault(task_id, []).append((watch, index))
        self._watches[watch] = None
        wait_s = min(max(question.wait, 0.0), LONGEST_WATCH_S)
        watch.timer = self._clock.callLater(wait_s, self._end, watch)
        if watch.ended:
            self._report(watch)

    def on_event(self, event: Event) -> None:
        """Notify the subscriptions of an event that the replica has applied."""
        if not isinstance(event, (Finished, Cancelled)) or event.task_id not in self._by_task:
            return
        state = self._replica.lookup(event.task_id, event.equipment_id)
        if state is None or not state.final:
            return  # a cancellation after the task's first call to A: it does not count
        for watch, index in self._by_task.pop(event.task_id):
            if not watch.ended:
                self._clock.callLater(0, self._report, watch)
            watch.ended.append((index, state))

    def end_all(self) -> None:
        """End all subscriptions, because the connection is closed."""
        for watch in list(self._watches):
            self._end(watch)

    def _report(self, watch: _Watch) -> None:
        ended, watch.ended = watch.ended, []
        if watch in self._watches and ended:
            watch.reply(encode_ended(ended))

    def _end(self, watch: _Watch) -> None:
        self._watches.pop(watch, None)
        if watch.timer is not None and watch.timer.active():
            watch.timer.cancel()
        for task_id, _ in watch.pairs:
            left = [entry for entry in self._by_task.pop(task_id, ()) if entry[0] is not watch]
            if left:
                self._by_task[task_id] = left

"""How a front end waits for tasks to end: thousands of clients, one message for hundreds of them,
and no polling.

All that begin to wait in one reactor turn share a subscription with the replicas of their shard,
which tell at once of each task that ends. A subscription is renewed after a while, and again and
again where nobody takes it; so a connection that breaks costs its clients a second. One timer
serves all clients. It fires once a second, and when the time of clients is over: at most ten times
a second."""

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
SLOT_S = 0.1  # clients whose time is over within one share a timer
LOOK_EVERY_S = 1.0  # at tasks that no subscription covers
MAX_BATCH = 500
RENEW_AFTER_S = 10.0
LONGEST_WATCH_S = 60.0

_Pair = tuple[str, str]
_Waiter = Deferred["State | None"]


@define(eq=False)
class _ShardBatch:
    """A shard's tasks whose end somebody waits for; which of them a subscription covers, and which
    are to have one soon.
    """

    shard: Shard
    waiters: dict[_Pair, dict[_Waiter, None]] = field(factory=dict)  # in ordered sets
    covered: set[_Pair] = field(factory=set)
    uncovered: dict[_Pair, None] = field(factory=dict)
    turning: bool = False


class CompletionWatcher:
    """The front end's `rtprov.interfaces.Completions`."""

    _log = Logger()

    def __init__(self, *, rpc: RpcClient, shards: int, clock: IReactorTime) -> None:
        self._rpc = rpc
        self._clock = clock
        self._batches = [_ShardBatch(Shard(index, shards)) for index in range(shards)]
        # by the clock's time in slots, in the order in which they came
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
        """See `rtprov.interfaces.Completions.wait`. Cancelling forgets the client."""
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
        """Nobody waits any longer: the front end stops."""
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
        """Have `_tick` called at this time of the clock, if not earlier."""
        if self._ticking is not None:
            if self._tick_at_s <= at_s:
                return
            self._ticking.cancel()
        self._tick_at_s = at_s
        self._ticking = self._clock.callLater(max(0.0, at_s - self._clock.seconds()), self._tick)

    def _tick(self) -> None:
        self._ticking = None
        # a timer's time is not to the last digit what it was told
        now = self._clock.seconds() + 0.001
        for due in [due for due in self._due if due * SLOT_S <= now]:
            _fire_all(list(self._due[due]), None)
        if now >= self._look_at_s:
            self._look_at_s = now + LOOK_EVERY_S
            for shard_batch in self._batches:
                self._cover(shard_batch)
        if self.waiting:
            self._tick_by(min(self._look_at_s, min(self._due) * SLOT_S))

    # Subscriptions.

    def _soon(self, shard_batch: _ShardBatch) -> None:
        if not shard_batch.turning:
            shard_batch.turning = True
            self._clock.callLater(0, self._turn_over, shard_batch)

    def _turn_over(self, shard_batch: _ShardBatch) -> None:
        shard_batch.turning = False
        self._cover(shard_batch)

    def _cover(self, shard_batch: _ShardBatch) -> None:
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
            lambda reason: self._log.failure("a subscription to ends of tasks broke", reason)
        )

    def _on_over(
        self, shard_batch: _ShardBatch, batch: list[_Pair], reason: Failure, renewed_at: float
    ) -> None:
        """The subscription's time is over, and it is renewed at once; or nobody took it, or it was
        lost: the next tick tries again.
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
            self._log.error("shard {shard}: {error}", shard=str(shard_batch.shard), error=error)
            return
        for index, state in ended:
            if 0 <= index < len(batch):
                _fire_all(list(shard_batch.waiters.pop(batch[index], ())), state)


def _fire_all(waiters: Sequence[_Waiter], state: State | None) -> None:
    """Fire each, unless what an earlier one set off has cancelled it."""
    for waiter in list(waiters):
        if not waiter.called:
            waiter.callback(state)


@define(eq=False)
class _Watch:
    """One front end's batch of tasks, and those that have ended since its last message."""

    reply: Reply
    pairs: list[tuple[str, str]]
    ended: list[tuple[int, State]] = field(factory=list)
    timer: IDelayedCall | None = None


class Watches:
    """The worker's half: tells each watch which of its tasks have ended, as `replica` knows it.

    All tasks of a watch that end in one reactor turn go into one message.
    """

    def __init__(self, *, replica: Replica, clock: IReactorTime) -> None:
        self._replica = replica
        self._clock = clock
        self._by_task: dict[str, list[tuple[_Watch, int]]] = {}
        self._watches: dict[_Watch, None] = {}  # an ordered set

    @property
    def watched(self) -> int:
        """How many tasks are watched."""
        return len(self._by_task)

    def begin(self, question: Watch, reply: Reply) -> None:
        """Watch the tasks of `question`; `reply` is called with each message for the front end."""
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

    def saw(self, event: Event) -> None:
        """The replica has taken this event of the journal."""
        if not isinstance(event, (Finished, Cancelled)) or event.task_id not in self._by_task:
            return
        state = self._replica.lookup(event.task_id, event.equipment_id)
        if state is None or not state.final:
            return  # a cancellation that came too late
        for watch, index in self._by_task.pop(event.task_id):
            if not watch.ended:
                self._clock.callLater(0, self._report, watch)
            watch.ended.append((index, state))

    def end_all(self) -> None:
        """No watch can be answered any more."""
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

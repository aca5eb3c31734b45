"""Task states over AMQP: the front end's client and the worker's server.

A front end sends a batch of (task id, equipment id) pairs to all replicas of a shard. Each replica
answers from memory with a batch of states in the same order, and the first answer counts. If a
replica does not know a pair, the client asks for it again in a second batch. For that batch the
replicas first pass their journals' barriers. Only a pair that is still unknown then is a task that
does not exist. So a GET right after its POST never returns a false 404, and unknown ids do not
delay the answers for known ones. A replica that cannot pass its barrier answers with an empty
batch.

Each replica has its own queue, which the broker deletes with the replica's connection. If no worker
is connected, the broker returns the request at once (`Unroutable`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.amqp.client.rpc import serve
from rtprov.errors import BrokerError, NoReply, NoWorker, Overloaded, Unroutable
from rtprov.messaging.status_messages import (
    decode_status_reply,
    decode_status_request,
    encode_status_reply,
    encode_status_request,
)
from rtprov.messaging.topology import STATUS_EXCHANGE, Shard, declare_status
from rtprov.model import State, shard_of
from rtprov.queries.barriers import pass_barrier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.rpc import RpcClient
    from rtprov.interfaces import Journal, StatusReader

MAX_BATCH = 500
MAX_PENDING = 20_000
# While this many requests to a shard are under way, further questions wait for a reply, so that
# they share a message; but no longer than `HOLD_S`.
AT_ONCE = 2
HOLD_S = 0.02
REPLY_DEADLINE_S = 2.0
WATCH_EVERY_S = 2.0
VERIFY_EVERY_S = 10.0
PREFETCH = 100


class StatusServer:
    """Answers the status requests of one shard from a replica.

    A session of the worker's connection; attach it after the shard's journal.
    """

    _log = Logger()

    def __init__(
        self, *, shard: Shard, replica: StatusReader, journal: Journal, clock: IReactorTime
    ) -> None:
        self._shard = shard
        self._replica = replica
        self._journal = journal
        self._clock = clock
        self.queue: str | None = None
        """The queue that it answers from, of the present connection."""

    async def attach(self, connection: AmqpConnection) -> None:
        """Declare the queue and start to answer. Raises `BrokerError`.

        The journal must have passed its barrier on this connection.
        """
        channel = await connection.open_channel()
        self.queue = await declare_status(channel, self._shard)
        await serve(channel, self.queue, self._answer, prefetch=PREFETCH)

    def detach(self) -> None:
        """Do nothing: the broker deletes the queue and its consumer with the connection."""

    async def _answer(self, request: bytes) -> bytes:
        pairs, barrier = decode_status_request(request)
        if barrier:
            try:
                await pass_barrier(self._journal, self._clock)
            except BrokerError as error:
                self._log.warn(
                    "{queue}: a request for unknown tasks was not answered, because the journal's"
                    " barrier failed: {error}",
                    queue=self._shard.status,
                    error=error,
                )
                return encode_status_reply([])
        return encode_status_reply(
            [self._replica.lookup(task_id, equipment_id) for task_id, equipment_id in pairs]
        )


@define(eq=False)
class _Question:
    pair: tuple[str, str]
    answer: Deferred[State | None]


@define(eq=False)
class _ShardBatch:
    """The questions for one shard that were not sent yet.

    `under_way` is the number of requests without a barrier that wait for their reply, `sending` the
    timer of the next one. `has_worker` tells whether a worker answered the last request.
    """

    shard: Shard
    questions: list[_Question] = field(factory=list)
    # a replica did not know these tasks: ask again, after a barrier
    unknown: list[_Question] = field(factory=list)
    under_way: int = 0
    sending: IDelayedCall | None = None
    has_worker: bool = True


class StatusClient:
    """The front end's implementation of `rtprov.interfaces.StatusSource`.

    All questions of one reactor turn are sent in one message for each shard. While two messages to
    a shard are under way, its questions wait for the next reply. So under load a message has many
    questions, and the cost of each is small.

    It is also a session; attach it after `rpc`. Every 2 s it sends an empty request to each shard,
    to log when a shard has no worker and when a worker is back, even if no client asks. While a
    shard has no worker, `verify_shard_count` is called at most every 10 s, to check the number of
    shards. If that number was changed, the shard's queues no longer exist.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        rpc: RpcClient,
        shards: int,
        clock: IReactorTime,
        verify_shard_count: Callable[[], None] = lambda: None,
    ) -> None:
        self._rpc = rpc
        self._clock = clock
        self._verify_shard_count = verify_shard_count
        self._verified_at = float("-inf")
        self._batches = [_ShardBatch(Shard(index, shards)) for index in range(shards)]
        self._pending = 0
        self._requests: set[Deferred[None]] = set()
        self._watch = LoopingCall(self._look)
        self._watch.clock = clock

    async def attach(self, connection: AmqpConnection) -> None:
        """Start to look for workers.

        The first look is after 2 s, because the workers of the same process or site may still be
        connecting.
        """
        watching = self._watch.start(WATCH_EVERY_S, now=False)
        watching.addErrback(
            lambda reason: self._log.failure(
                "the check for workers failed and was stopped; the log will not report missing"
                " workers until the next connection to the broker",
                reason,
            )
        )

    def detach(self) -> None:
        """Stop looking for workers."""
        if self._watch.running:
            self._watch.stop()

    def _look(self) -> Deferred[list[tuple[bool, None]]]:
        """Send an empty request to each shard.

        Fires when all of them were answered or timed out, so that only one round runs at a time.
        """
        return DeferredList(
            [self._start_request(shard_batch, (), barrier=False) for shard_batch in self._batches]
        )

    def status(self, task_id: str, equipment_id: str) -> Deferred[State | None]:
        """See `rtprov.interfaces.StatusSource.status`.

        Fails with `Overloaded` if `MAX_PENDING` questions are waiting.
        """
        if self._pending >= MAX_PENDING:
            return fail(Overloaded("Too many status requests are waiting"))
        # The question of a cancelled Deferred stays in its batch; the answer is ignored.
        answer: Deferred[State | None] = Deferred(lambda _: None)
        shard_batch = self._batches[shard_of(equipment_id, len(self._batches))]
        self._pending += 1
        self._ask(shard_batch, shard_batch.questions, _Question((task_id, equipment_id), answer))
        return answer

    def _ask(
        self, shard_batch: _ShardBatch, questions: list[_Question], question: _Question
    ) -> None:
        questions.append(question)
        if shard_batch.sending is None:
            delay_s = 0.0 if shard_batch.under_way < AT_ONCE else HOLD_S
            shard_batch.sending = self._clock.callLater(delay_s, self._send, shard_batch)

    def _send(self, shard_batch: _ShardBatch) -> None:
        shard_batch.sending = None
        questions, shard_batch.questions = shard_batch.questions, []
        unknown, shard_batch.unknown = shard_batch.unknown, []
        for waiting, barrier in ((questions, False), (unknown, True)):
            for start in range(0, len(waiting), MAX_BATCH):
                self._start_request(shard_batch, waiting[start : start + MAX_BATCH], barrier)

    def _start_request(
        self, shard_batch: _ShardBatch, batch: Sequence[_Question], barrier: bool
    ) -> Deferred[None]:
        request = Deferred.fromCoroutine(self._request(shard_batch, batch, barrier))
        self._requests.add(request)
        request.addErrback(lambda reason: self._log.failure("a status request failed", reason))
        request.addCallback(lambda _: self._requests.discard(request))
        return request

    async def _request(
        self, shard_batch: _ShardBatch, batch: Sequence[_Question], barrier: bool
    ) -> None:
        counted = not barrier and len(batch) > 0
        shard_batch.under_way += counted
        try:
            request = encode_status_request([question.pair for question in batch], barrier=barrier)
            reply = await self._rpc.call(
                shard_batch.shard.status,
                request,
                exchange=STATUS_EXCHANGE,
                timeout_s=REPLY_DEADLINE_S,
            )
            states = decode_status_reply(reply)
            if len(states) != len(batch):
                raise NoReply(f"The worker returned {len(states)} states for {len(batch)} tasks")
        except Unroutable:
            self._note(shard_batch, has_worker=False)
            self._verify_count()
            self._refuse(
                batch, NoWorker("No worker is connected, so the task's status is not available")
            )
        except BrokerError as error:
            self._refuse(batch, error)
        except Exception:
            self._refuse(batch, NoReply("The worker's answer could not be decoded"))
            raise
        else:
            self._note(shard_batch, has_worker=True)
            for question, state in zip(batch, states, strict=True):
                if state is None and not barrier:
                    self._ask(shard_batch, shard_batch.unknown, question)
                else:
                    self._settle(question, state)
        finally:
            shard_batch.under_way -= counted
            if counted and shard_batch.sending is not None:
                shard_batch.sending.reset(0)

    def _settle(self, question: _Question, result: State | Exception | None) -> None:
        self._pending -= 1
        if question.answer.called:
            return
        if isinstance(result, Exception):
            question.answer.errback(result)
        else:
            question.answer.callback(result)

    def _refuse(self, batch: Sequence[_Question], error: Exception) -> None:
        for question in batch:
            self._settle(question, error)

    def _verify_count(self) -> None:
        now = self._clock.seconds()
        if now - self._verified_at >= VERIFY_EVERY_S:
            self._verified_at = now
            self._verify_shard_count()

    def _note(self, shard_batch: _ShardBatch, *, has_worker: bool) -> None:
        """Log when the shard's last worker is lost, and when a worker answers again."""
        if shard_batch.has_worker == has_worker:
            return
        shard_batch.has_worker = has_worker
        if has_worker:
            self._log.info("a worker answers on {queue} again", queue=shard_batch.shard.status)
        else:
            self._log.warn(
                "no worker answers on {queue}: no worker is connected, or the workers were started"
                " with another --shards than this front end. Status requests are answered with 503"
                " until a worker answers",
                queue=shard_batch.shard.status,
            )

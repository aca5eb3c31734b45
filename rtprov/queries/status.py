"""How the front end learns a task's state: one conversation over AMQP.

A front end sends a batch of (task id, equipment id) pairs to all replicas of the shard; each
answers with a batch of states, in the same order, from its memory, and the first answer counts. A
pair that is unknown there is asked for once more, in another batch that bids the replicas wait for
their journals' barriers first; only then does "unknown" mean that there is no such task. So a GET
right behind its POST is never a false 404, and bogus ids never delay the answers to honest ones. A
replica that cannot pass its barrier answers with no states.

Each replica has a queue of its own, which goes away with its connection: with no worker alive the
request comes straight back (`Unroutable`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, TimeoutError, fail
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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IReactorTime

    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.rpc import RpcClient
    from rtprov.interfaces import Journal, StatusReader

MAX_BATCH = 500
MAX_PENDING = 20_000
REPLY_DEADLINE_S = 2.0
WATCH_EVERY_S = 2.0
DOUBT_EVERY_S = 10.0
BARRIER_DEADLINE_S = 1.8
PREFETCH = 100


class StatusServer:
    """Answers for one shard, from a replica. A session of the worker's connection: attach it after
    the shard's journal.
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
        """Start to answer. The journal has passed its barrier on this connection before."""
        channel = await connection.open_channel()
        self.queue = await declare_status(channel, self._shard)
        await serve(channel, self.queue, self._answer, prefetch=PREFETCH)

    def detach(self) -> None:
        """The connection, and with it the consumer, is gone: nothing to undo."""

    async def _answer(self, request: bytes) -> bytes:
        pairs, barrier = decode_status_request(request)
        if barrier:
            try:
                await self._journal.barrier().addTimeout(BARRIER_DEADLINE_S, self._clock)
            except (BrokerError, TimeoutError) as error:
                self._log.warn(
                    "{queue}: cannot tell unknown tasks: {error}",
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
    """The questions for one shard that wait for the end of the reactor's turn, and how the last
    conversation with it went.
    """

    shard: Shard
    questions: list[_Question] = field(factory=list)
    # unknown to a replica: asked again behind the barrier
    doubtful: list[_Question] = field(factory=list)
    staffed: bool = True


class StatusClient:
    """The front end's `rtprov.interfaces.StatusSource`: gathers the questions of one reactor turn
    into one message for each shard.

    Also a session, to be attached after the `rpc`: every 2 s it asks each shard an empty question,
    so that the log tells of a shard without a worker, and of a worker that is back, whether or not
    a client asks. `in_doubt` is called while a shard has none, every 10 s at most: its queues may
    have gone with another number of shards."""

    _log = Logger()

    def __init__(
        self,
        *,
        rpc: RpcClient,
        shards: int,
        clock: IReactorTime,
        in_doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self._rpc = rpc
        self._clock = clock
        self._in_doubt = in_doubt
        self._doubted_at = float("-inf")
        self._batches = [_ShardBatch(Shard(index, shards)) for index in range(shards)]
        self._pending = 0
        self._conversations: set[Deferred[None]] = set()
        self._watch = LoopingCall(self._look)
        self._watch.clock = clock

    async def attach(self, connection: AmqpConnection) -> None:
        """Look for workers from now on; not at once, since those of the same process or site may be
        about to connect.
        """
        watching = self._watch.start(WATCH_EVERY_S, now=False)
        watching.addErrback(
            lambda reason: self._log.failure("the front end no longer looks for workers", reason)
        )

    def detach(self) -> None:
        """The connection is gone."""
        if self._watch.running:
            self._watch.stop()

    def _look(self) -> Deferred[list[tuple[bool, None]]]:
        """Ask each shard nothing; done when all have answered, or have let the time pass: no more
        is under way at once.
        """
        return DeferredList(
            [
                self._begin_to_converse(shard_batch, (), barrier=False)
                for shard_batch in self._batches
            ]
        )

    def status(self, task_id: str, equipment_id: str) -> Deferred[State | None]:
        """See `rtprov.interfaces.StatusSource.status`. Fails with `Overloaded` beyond `MAX_PENDING`
        open questions.
        """
        if self._pending >= MAX_PENDING:
            return fail(Overloaded("Too many status requests are waiting"))
        # a cancelled question is answered to nobody
        answer: Deferred[State | None] = Deferred(lambda _: None)
        shard_batch = self._batches[shard_of(equipment_id, len(self._batches))]
        self._pending += 1
        self._ask(shard_batch, shard_batch.questions, _Question((task_id, equipment_id), answer))
        return answer

    def _ask(self, shard_batch: _ShardBatch, counter: list[_Question], question: _Question) -> None:
        if not shard_batch.questions and not shard_batch.doubtful:
            self._clock.callLater(0, self._turn_over, shard_batch)
        counter.append(question)

    def _turn_over(self, shard_batch: _ShardBatch) -> None:
        questions, shard_batch.questions = shard_batch.questions, []
        doubtful, shard_batch.doubtful = shard_batch.doubtful, []
        for waiting, barrier in ((questions, False), (doubtful, True)):
            for start in range(0, len(waiting), MAX_BATCH):
                self._begin_to_converse(shard_batch, waiting[start : start + MAX_BATCH], barrier)

    def _begin_to_converse(
        self, shard_batch: _ShardBatch, batch: Sequence[_Question], barrier: bool
    ) -> Deferred[None]:
        conversation = Deferred.fromCoroutine(self._converse(shard_batch, batch, barrier))
        self._conversations.add(conversation)
        conversation.addErrback(
            lambda reason: self._log.failure("a status conversation broke", reason)
        )
        conversation.addCallback(lambda _: self._conversations.discard(conversation))
        return conversation

    async def _converse(
        self, shard_batch: _ShardBatch, batch: Sequence[_Question], barrier: bool
    ) -> None:
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
                raise NoReply(f"The worker answered {len(states)} of {len(batch)} status questions")
        except Unroutable:
            self._note(shard_batch, staffed=False)
            self._doubt()
            self._refuse(batch, NoWorker("No worker is alive that could tell the task's status"))
        except BrokerError as error:
            self._refuse(batch, error)
        except Exception:
            self._refuse(batch, NoReply("The worker's answer could not be understood"))
            raise
        else:
            self._note(shard_batch, staffed=True)
            for question, state in zip(batch, states, strict=True):
                if state is None and not barrier:
                    self._ask(shard_batch, shard_batch.doubtful, question)
                else:
                    self._settle(question, state)

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

    def _doubt(self) -> None:
        now = self._clock.seconds()
        if now - self._doubted_at >= DOUBT_EVERY_S:
            self._doubted_at = now
            self._in_doubt()

    def _note(self, shard_batch: _ShardBatch, *, staffed: bool) -> None:
        """Say once that nobody answers for a shard, and once that somebody does again."""
        if shard_batch.staffed == staffed:
            return
        shard_batch.staffed = staffed
        if staffed:
            self._log.info("a worker answers on {queue} again", queue=shard_batch.shard.status)
        else:
            self._log.warn(
                "no worker answers on {queue}: none is alive, or the workers were started with"
                " another --shards than this front end",
                queue=shard_batch.shard.status,
            )

"""Task details and lists of tasks over AMQP: the front end's client and the worker's server.

Each replica of a shard has its own queue for questions, once it has passed its first barrier. A
question goes to all of them, and the first answer counts. If no replica is connected, the broker
returns the question at once. `TaskQueryClient` asks, `TaskQueryServer` answers. The server also
handles the watches of `rtprov.queries.watches`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtprov.amqp.client.rpc import serve_many
from rtprov.errors import BrokerError, NoReply, NoWorker, UndecodableMessage, Unroutable
from rtprov.messaging.query_messages import (
    KeysAsked,
    Listing,
    TaskQuery,
    Watch,
    decode_known,
    decode_question,
    encode,
    encode_keys,
    encode_known,
)
from rtprov.messaging.report_messages import EndsAsked, ReasonsAsked, SummaryAsked, TaskSearch
from rtprov.messaging.topology import STATUS_EXCHANGE, Shard, declare_inquiry
from rtprov.model import Details, Event, shard_of
from rtprov.queries.barriers import pass_barrier
from rtprov.queries.watches import Watches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IReactorTime

    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.rpc import Reply, RpcClient
    from rtprov.interfaces import Journal, Replica
    from rtprov.queries.report_server import ReportServer

REPLY_DEADLINE_S = 2.0
_REPORTS = (SummaryAsked, TaskSearch, ReasonsAsked, EndsAsked)
MAX_LISTED = 101  # a page of 100, and one more to show that there is another page
PREFETCH = 1000


class TaskQueryClient:
    """The front end's implementation of `rtprov.interfaces.TaskQueries`."""

    def __init__(self, *, rpc: RpcClient, shards: int) -> None:
        self._rpc = rpc
        self._shards = [Shard(index, shards) for index in range(shards)]

    def details(
        self, task_id: str, equipment_id: str, *, barrier: bool
    ) -> Deferred[Details | None]:
        """See `rtprov.interfaces.TaskQueries.details`."""
        shard = self._shards[shard_of(equipment_id, len(self._shards))]
        return Deferred.fromCoroutine(
            self._details(shard, TaskQuery(task_id, equipment_id, barrier))
        )

    def find(self, task_id: str) -> Deferred[Details | None]:
        """See `rtprov.interfaces.TaskQueries.find`."""
        return Deferred.fromCoroutine(self._find(task_id))

    def tasks_of(
        self, equipment_id: str, before: str | None, limit: int
    ) -> Deferred[list[Details]]:
        """See `rtprov.interfaces.TaskQueries.tasks_of`."""
        shard = self._shards[shard_of(equipment_id, len(self._shards))]
        return Deferred.fromCoroutine(self._ask(shard, Listing(equipment_id, before, limit)))

    async def _find(self, task_id: str) -> Details | None:
        """Ask all shards, because the task id does not contain the shard.

        The first round has no barriers. If no shard knows the task, a second round asks again with
        them.
        """
        for barrier in (False, True):
            asked = [
                Deferred.fromCoroutine(self._details(shard, TaskQuery(task_id, None, barrier)))
                for shard in self._shards
            ]
            answers: list[Any] = await DeferredList(asked, consumeErrors=True)
            for _, answer in answers:
                if isinstance(answer, Details):
                    return answer
            for _, answer in answers:
                if isinstance(answer, Failure):
                    answer.raiseException()
        return None

    async def _details(self, shard: Shard, inquiry: TaskQuery) -> Details | None:
        known = await self._ask(shard, inquiry)
        return known[0] if known else None

    async def _ask(self, shard: Shard, question: TaskQuery | Listing) -> list[Details]:
        try:
            answer = await self._rpc.call(
                shard.inquiry,
                encode(question),
                exchange=STATUS_EXCHANGE,
                timeout_s=REPLY_DEADLINE_S,
            )
            return decode_known(answer)
        except Unroutable:
            raise NoWorker("No worker is connected, so the task cannot be looked up") from None
        except UndecodableMessage:
            raise NoReply("The worker's answer could not be decoded") from None


class TaskQueryServer:
    """Answers the questions about one shard from a replica.

    A session of the worker's connection; attach it after the shard's journal. Call `on_event` with
    each event of the journal, after the replica. `reports` answers the questions of operators.
    `key_ids` returns the ids of the worker's sealing keys, `wall_clock` seconds since the epoch.
    `is_complete` returns False while the broker's journal may lack events that the replica has
    seen. Until it returns True, the server does not answer questions about one task.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        shard: Shard,
        replica: Replica,
        journal: Journal,
        reports: ReportServer,
        key_ids: Callable[[], Sequence[str]],
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        is_complete: Callable[[], bool] = lambda: True,
    ) -> None:
        self._shard = shard
        self._replica = replica
        self._journal = journal
        self._reports = reports
        self._key_ids = key_ids
        self._is_complete = is_complete
        self._clock = clock
        self._wall_clock = wall_clock
        self._watches = Watches(replica=replica, clock=clock)
        self.queue: str | None = None
        """The queue that it answers from, of the present connection."""

    @property
    def watched(self) -> int:
        """The number of tasks that front ends watch."""
        return self._watches.watched

    def on_event(self, event: Event) -> None:
        """Notify the watches of an event that the replica has applied."""
        self._watches.on_event(event)

    async def attach(self, connection: AmqpConnection) -> None:
        """Declare the queue and start to answer. Raises `BrokerError`.

        The journal must have passed its barrier on this connection.
        """
        channel = await connection.open_channel()
        self.queue = await declare_inquiry(channel, self._shard)
        await serve_many(channel, self.queue, self._answer, prefetch=PREFETCH)

    def detach(self) -> None:
        """End all watches, because the connection is closed."""
        self._watches.end_all()
        self._reports.detach()

    async def _answer(self, body: bytes, reply: Reply) -> None:
        question = decode_question(body)
        if isinstance(question, Watch):
            self._watches.begin(question, reply)
            return
        if isinstance(question, KeysAsked):
            reply(encode_keys(self._key_ids()))
            return
        needs_barrier = isinstance(question, Listing) or getattr(question, "barrier", False)
        if needs_barrier and not await self._passes_barrier():
            return  # the front end's request times out
        if isinstance(question, _REPORTS):
            await self._reports.answer(question, reply)
            return
        if isinstance(question, TaskQuery) and not self._is_complete():
            return  # the same
        now = self._wall_clock()
        if isinstance(question, Listing):
            limit = min(max(question.limit, 0), MAX_LISTED)
            reply(
                encode_known(
                    self._replica.tasks_of(question.equipment, question.before, limit, now)
                )
            )
        else:
            details = self._replica.details(question.task, question.equipment, now)
            reply(encode_known([] if details is None else [details]))

    async def _passes_barrier(self) -> bool:
        """Return whether the replica has every event that was confirmed before this call."""
        try:
            await pass_barrier(self._journal, self._clock)
        except BrokerError as error:
            self._log.warn(
                "shard {shard}: a question about tasks was not answered, because the journal's"
                " barrier failed: {error}",
                shard=str(self._shard),
                error=error,
            )
            return False
        return True

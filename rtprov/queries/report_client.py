"""The front end's questions for operators: it asks the workers of each shard.

A search goes to all replicas of a shard, and the first answer counts. A summary is collected from
all of them, because operators want to see the standbys, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from rtprov.errors import BrokerError, NoReply, NoWorker, UndecodableMessage, Unroutable
from rtprov.messaging.report_messages import (
    EndsAsked,
    ReasonsAsked,
    ReportQuestion,
    SummaryAsked,
    TaskSearch,
    decode_ends,
    decode_found,
    decode_reasons,
    decode_summary,
    encode,
)
from rtprov.messaging.topology import STATUS_EXCHANGE, Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.rpc import RpcClient
    from rtprov.reports import Cursor, FoundTask, FoundTasks, ShardSummary, TaskFilter

REPLY_DEADLINE_S = 2.5
# Time for the replicas to send their summaries: for the first one, and then for the others.
COLLECT_FOR_S = 2.0
OTHERS_WITHIN_S = 0.5
FOLLOW_FOR_S = 10.0
RENEW_EVERY_S = 8.0
TRY_AGAIN_S = 1.0

T = TypeVar("T")


@define(eq=False)
class _Collection:
    """The summaries of one shard's replicas; `known` are the replicas that answered before."""

    known: frozenset[str]
    answers: dict[str, ShardSummary] = field(factory=dict)
    enough: Deferred[None] = field(factory=Deferred)
    timer: IDelayedCall | None = None

    def end(self) -> None:
        """What has come so far is enough."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        if not self.enough.called:
            self.enough.callback(None)


class ReportClient:
    """The front end's implementation of `rtprov.interfaces.ShardReports`.

    `name` identifies this front end to the workers.
    """

    _log = Logger()

    def __init__(self, *, rpc: RpcClient, shards: int, clock: IReactorTime, name: str) -> None:
        self._rpc = rpc
        self._clock = clock
        self._name = name
        self._shards = [Shard(index, shards) for index in range(shards)]
        self._replicas: dict[Shard, frozenset[str]] = {}

    @property
    def shards(self) -> Sequence[str]:
        """See `rtprov.interfaces.ShardReports.shards`."""
        return [str(shard) for shard in self._shards]

    # Summaries.

    def summaries(self, shard: int) -> Deferred[list[ShardSummary]]:
        """See `rtprov.interfaces.ShardReports.summaries`."""
        return Deferred.fromCoroutine(self._summaries(self._shards[shard]))

    async def _summaries(self, shard: Shard) -> list[ShardSummary]:
        """Collect the answers until all replicas that answered before have answered again, but at
        most for half a second after the first answer.

        Answers are heard for the rest of the time, too.
        """
        collection = _Collection(self._replicas.get(shard, frozenset()))
        asked = self._rpc.subscribe(
            shard.inquiry,
            encode(SummaryAsked()),
            exchange=STATUS_EXCHANGE,
            timeout_s=COLLECT_FOR_S,
            each=lambda body: self._heard(shard, collection, body),
        )
        asked.addBoth(lambda _: self._collected(shard, collection))
        await collection.enough
        return list(collection.answers.values())

    def _heard(self, shard: Shard, collection: _Collection, body: bytes) -> None:
        try:
            summary = decode_summary(body)
        except UndecodableMessage as error:
            self._log.error(
                "shard {shard}: ignoring a worker's summary: {error}", shard=str(shard), error=error
            )
            return
        collection.answers[summary.process] = summary
        # A new one is waited for from the next call on.
        self._replicas[shard] = self._replicas.get(shard, frozenset()) | {summary.process}
        if collection.known and collection.known <= collection.answers.keys():
            collection.end()
        elif collection.timer is None:
            collection.timer = self._clock.callLater(OTHERS_WITHIN_S, collection.end)

    def _collected(self, shard: Shard, collection: _Collection) -> None:
        self._replicas[shard] = frozenset(collection.answers)
        collection.end()

    # Searches.

    def search(
        self, shard: int, wanted: TaskFilter, before: Cursor | None, limit: int, *, barrier: bool
    ) -> Deferred[FoundTasks]:
        """See `rtprov.interfaces.ShardReports.search`."""
        question = TaskSearch(wanted, before, limit, barrier)
        return Deferred.fromCoroutine(self._ask(self._shards[shard], question, decode_found))

    def reasons(self, shard: int, wanted: TaskFilter) -> Deferred[tuple[dict[str, int], bool]]:
        """See `rtprov.interfaces.ShardReports.reasons`."""
        question = ReasonsAsked(wanted)
        return Deferred.fromCoroutine(self._ask(self._shards[shard], question, decode_reasons))

    async def _ask(self, shard: Shard, question: ReportQuestion, decode: Callable[[bytes], T]) -> T:
        try:
            return decode(
                await self._rpc.call(
                    shard.inquiry,
                    encode(question),
                    exchange=STATUS_EXCHANGE,
                    timeout_s=REPLY_DEADLINE_S,
                )
            )
        except Unroutable:
            raise NoWorker("No worker is connected, so tasks cannot be looked up") from None
        except UndecodableMessage:
            raise NoReply("The worker's answer could not be decoded") from None

    # Ends of tasks.

    def follow(self, each: Callable[[Sequence[FoundTask], int], None]) -> Callable[[], None]:
        """See `rtprov.interfaces.ShardReports.follow`."""
        followed = [
            _Followed(self._rpc, shard, self._name, self._clock, each) for shard in self._shards
        ]

        def stop() -> None:
            for one in followed:
                one.stop()

        return stop


class _Followed:
    """The subscription to the ends of one shard's tasks, renewed before its time is over."""

    _log = Logger()

    def __init__(
        self,
        rpc: RpcClient,
        shard: Shard,
        name: str,
        clock: IReactorTime,
        each: Callable[[Sequence[FoundTask], int], None],
    ) -> None:
        self._rpc = rpc
        self._shard = shard
        self._name = name
        self._clock = clock
        self._each = each
        self._asked: list[Deferred[bytes]] = []  # the present one, and the one before it
        self._next: IDelayedCall | None = None
        self._ask()

    def stop(self) -> None:
        """End the subscription. The worker's replies are ignored until its time is over."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        for asked in list(self._asked):
            asked.cancel()

    def _ask(self) -> None:
        self._next = self._clock.callLater(RENEW_EVERY_S, self._ask)
        asked = self._rpc.subscribe(
            self._shard.inquiry,
            encode(EndsAsked(self._name, FOLLOW_FOR_S)),
            exchange=STATUS_EXCHANGE,
            timeout_s=FOLLOW_FOR_S,
            each=self._on_report,
        )
        self._asked.append(asked)
        asked.addErrback(self._on_over, asked)
        asked.addErrback(
            lambda reason: self._log.failure("a subscription to all ends of tasks failed", reason)
        )

    def _on_over(self, reason: Failure, asked: Deferred[bytes]) -> None:
        reason.trap(BrokerError, CancelledError)
        latest = asked is self._asked[-1]
        self._asked.remove(asked)
        if latest and self._next is not None:  # no worker, or no connection: try again soon
            self._next.reset(TRY_AGAIN_S)

    def _on_report(self, body: bytes) -> None:
        try:
            tasks, skipped = decode_ends(body)
        except UndecodableMessage as error:
            self._log.error(
                "shard {shard}: ignoring a worker's report of ends: {error}",
                shard=str(self._shard),
                error=error,
            )
            return
        self._each(tasks, skipped)

"""The front end's questions for operators: it asks the workers of each shard.

A question goes to all replicas of a shard. A summary is collected from all of them, because
operators want to see the standbys, too. The answers to a search are collected from all replicas
that keep a history, because each of them may have ended tasks that the others do not have. If none
keeps one, the first answer counts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from rtprov.errors import BrokerError, UndecodableMessage
from rtprov.intervals import union
from rtprov.messaging.report_messages import (
    EndsAsked,
    ReasonsAsked,
    SummaryAsked,
    TaskSearch,
    decode_ends,
    decode_found,
    decode_reasons,
    decode_summary,
    encode,
)
from rtprov.messaging.topology import STATUS_EXCHANGE, Shard
from rtprov.queries.collecting import Collection, HistoryReplicas, best_of_days
from rtprov.reports import ShardReasons, merge_found

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.rpc import RpcClient
    from rtprov.intervals import Interval
    from rtprov.messaging.report_messages import Reasons
    from rtprov.reports import (
        Cursor,
        FoundTask,
        FoundTasks,
        ReplicaCoverage,
        ShardSummary,
        TaskFilter,
    )

# Time for the replicas to send their summaries: for the first one, and then for the others.
COLLECT_FOR_S = 2.0
OTHERS_WITHIN_S = 0.5
FOLLOW_FOR_S = 10.0
RENEW_EVERY_S = 8.0
TRY_AGAIN_S = 1.0


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
        self._historians = {
            shard: HistoryReplicas(rpc, shard, clock, partial(self._known_replicas, shard))
            for shard in self._shards
        }

    @property
    def shards(self) -> Sequence[str]:
        """See `rtprov.interfaces.ShardReports.shards`."""
        return [str(shard) for shard in self._shards]

    def _known_replicas(self, shard: Shard) -> frozenset[str] | None:
        return self._replicas.get(shard) or None

    # Summaries.

    def summaries(self, shard: int) -> Deferred[list[ShardSummary]]:
        """See `rtprov.interfaces.ShardReports.summaries`."""
        return Deferred.fromCoroutine(self._summaries(self._shards[shard]))

    async def _summaries(self, shard: Shard) -> list[ShardSummary]:
        """Collect the answers until all replicas that answered before have answered again, but at
        most for half a second after the first answer.

        Answers are heard for the rest of the time, too.
        """
        collection: Collection[ShardSummary] = Collection(
            self._known_replicas(shard), OTHERS_WITHIN_S
        )
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

    def _heard(self, shard: Shard, collection: Collection[ShardSummary], body: bytes) -> None:
        try:
            summary = decode_summary(body)
        except UndecodableMessage as error:
            self._log.error(
                "shard {shard}: ignoring a worker's summary: {error}", shard=str(shard), error=error
            )
            return
        # The next call expects an answer of a new replica, too.
        self._replicas[shard] = self._replicas.get(shard, frozenset()) | {summary.process}
        collection.add(summary.process, summary, self._clock)

    def _collected(self, shard: Shard, collection: Collection[ShardSummary]) -> None:
        self._replicas[shard] = frozenset(collection.answers)
        collection.end()

    # Searches.

    def search(
        self, shard: int, wanted: TaskFilter, before: Cursor | None, limit: int, *, barrier: bool
    ) -> Deferred[FoundTasks]:
        """See `rtprov.interfaces.ShardReports.search`."""
        question = TaskSearch(wanted, before, limit, barrier, history=True)
        return Deferred.fromCoroutine(self._search(self._shards[shard], question))

    async def _search(self, shard: Shard, question: TaskSearch) -> FoundTasks:
        historians = self._historians[shard]
        answers = await historians.ask(question, _decode_found, learn=question.barrier)
        found = merge_found([each for each, _ in answers], question.limit)
        return evolve(found, covered=_covered(historians, answers))

    def reasons(self, shard: int, wanted: TaskFilter) -> Deferred[ShardReasons]:
        """See `rtprov.interfaces.ShardReports.reasons`."""
        return Deferred.fromCoroutine(self._reasons(self._shards[shard], wanted))

    async def _reasons(self, shard: Shard, wanted: TaskFilter) -> ShardReasons:
        historians = self._historians[shard]
        question = ReasonsAsked(wanted, history=True)
        answers = await historians.ask(question, _decode_reasons, learn=True)
        first = answers[0][0]
        histories = [each.history for each, _ in answers if each.history is not None]
        counts = best_of_days(histories)
        for reason, count in first.counts.items():
            counts[reason] = max(count, counts.get(reason, 0))
        whole = first.whole and all(each.whole for each in histories)
        return ShardReasons(counts, whole, _covered(historians, answers))

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


def _decode_found(body: bytes) -> tuple[FoundTasks, ReplicaCoverage | None]:
    return decode_found(body)


def _decode_reasons(body: bytes) -> tuple[Reasons, ReplicaCoverage | None]:
    reasons = decode_reasons(body)
    return reasons, reasons.replica


def _covered(
    historians: HistoryReplicas, answers: Sequence[tuple[object, ReplicaCoverage | None]]
) -> list[Interval] | None:
    """Return from which times the workers that have answered know all ends."""
    if not historians.ever_known:
        return None
    return union(
        times for _, replica in answers if replica is not None for times in replica.covered
    )

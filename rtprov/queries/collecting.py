"""Collect the answers of several replicas of a shard to one question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from rtprov.errors import BrokerError, NoReply, NoWorker, UndecodableMessage, Unroutable
from rtprov.messaging.report_messages import encode
from rtprov.messaging.topology import STATUS_EXCHANGE, Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.rpc import RpcClient
    from rtprov.messaging.report_messages import ReportQuestion
    from rtprov.reports import HistoryCounts, ReplicaCoverage

REPLY_DEADLINE_S = 2.5
# Time for the other replicas after the first answer, if not all that are expected have answered: a
# replica searches in its history for about a second.
OTHERS_WITHIN_S = 1.5
UNNAMED_REPLICA = ""  # the name of all replicas of earlier versions, which do not say theirs

T = TypeVar("T")


@define(eq=False)
class Collection(Generic[T]):
    """The answers to one question, by replica.

    `expected` are the replicas that must answer; None if they are not known. After the first
    answer, `others_within_s` seconds remain for the others.
    """

    expected: frozenset[str] | None
    others_within_s: float
    answers: dict[str, T] = field(factory=dict)
    enough: Deferred[None] = field(factory=Deferred)
    timer: IDelayedCall | None = None

    def add(self, process: str, answer: T, clock: IReactorTime) -> None:
        """Add an answer."""
        self.answers.setdefault(process, answer)
        if self.expected is not None and self.expected <= self.answers.keys():
            self.end()
        elif self.timer is None:
            self.timer = clock.callLater(self.others_within_s, self.end)

    def end(self) -> None:
        """Stop collecting: `enough` fires, and `answers` has what has come."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        if not self.enough.called:
            self.enough.callback(None)


class HistoryReplicas:
    """The replicas of a shard that keep a history, and the questions to them.

    `replicas` returns the replicas that have answered other questions, None if there are none.
    """

    _log = Logger()

    def __init__(
        self,
        rpc: RpcClient,
        shard: Shard,
        clock: IReactorTime,
        replicas: Callable[[], frozenset[str] | None],
    ) -> None:
        self._replicas = replicas
        self._rpc = rpc
        self._shard = shard
        self._clock = clock
        self._known: frozenset[str] | None = None
        self.ever_known = False
        """Whether a replica has kept a history since this process has begun."""

    async def ask(
        self,
        question: ReportQuestion,
        decode: Callable[[bytes], tuple[T, ReplicaCoverage | None]],
        *,
        learn: bool,
    ) -> list[tuple[T, ReplicaCoverage | None]]:
        """Return the answers of the replicas that keep a history, and of the first one that keeps
        none; at least one answer.

        With `learn`, answers that come later are heard, too, so that new replicas become known.
        Raises `NoWorker` or `BrokerError`.
        """
        expected = self._replicas() if self._known is None else self._known
        collection: Collection[tuple[T, ReplicaCoverage | None]] = Collection(
            expected, OTHERS_WITHIN_S
        )

        def heard(body: bytes) -> None:
            try:
                answer, replica = decode(body)
            except UndecodableMessage as error:
                self._log.error(
                    "shard {shard}: ignoring a worker's answer: {error}",
                    shard=str(self._shard),
                    error=error,
                )
                return
            process = UNNAMED_REPLICA if replica is None else replica.process
            if replica is not None and replica.history:
                self.ever_known = True
                self._known = (self._known or frozenset()) | {process}
            collection.add(process, (answer, replica), self._clock)

        asked = self._rpc.subscribe(
            self._shard.inquiry,
            encode(question),
            exchange=STATUS_EXCHANGE,
            timeout_s=REPLY_DEADLINE_S,
            each=heard,
        )
        asked.addErrback(self._on_over, collection)
        try:
            await collection.enough
        except BaseException:
            collection.end()
            asked.cancel()
            raise
        self._known = frozenset(
            process
            for process, (_, replica) in collection.answers.items()
            if replica is not None and replica.history
        )
        if not learn:
            asked.cancel()
        return list(collection.answers.values())

    def _on_over(self, reason: Failure, collection: Collection[T]) -> None:
        """The time is over, or the question could not be asked."""
        if collection.enough.called:
            reason.trap(BrokerError, CancelledError)
        elif collection.answers:
            collection.end()
        elif reason.check(Unroutable):
            collection.enough.errback(
                NoWorker("No worker is connected, so tasks cannot be looked up")
            )
        elif reason.check(NoReply):
            collection.enough.errback(NoReply(f"No reply within {REPLY_DEADLINE_S:g} s"))
        else:
            collection.enough.errback(reason)


def best_of_days(histories: Iterable[HistoryCounts]) -> dict[str, int]:
    """Return how many tasks ended with which reason, from the counts of several replicas.

    They count the same tasks. So of each day, the counts of the replica that knows most of it are
    used.
    """
    days: dict[str, dict[str, int]] = {}
    for history in histories:
        for day, counts in history.days.items():
            if sum(counts.values()) > sum(days.get(day, {}).values()):
                days[day] = counts
    found: dict[str, int] = {}
    for counts in days.values():
        for reason, count in counts.items():
            found[reason] = found.get(reason, 0) + count
    return found

"""Merge the summaries of all shards into the one that operators get."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults

from rtprov.frontend.operators.schemas import (
    BrokerDocument,
    EndedDocument,
    EndedLatelyDocument,
    EquipmentDocument,
    OpenTasksDocument,
    SecondsDocument,
    ShardDocument,
    SummaryDocument,
)
from rtprov.frontend.schemas import time_text
from rtprov.model import EquipmentState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.python.failure import Failure

    from rtprov.frontend.operators.broker_watch import BrokerState
    from rtprov.interfaces import ShardReports
    from rtprov.reports import EndedCounts, ShardSummary

RUNNING = "running"
NO_WORKER, EQUIPMENT = "no worker", "equipment"
FIRST_GUESS_S = 60.0

_WORST_FIRST = (EquipmentState.OPEN, EquipmentState.HALF_OPEN, EquipmentState.CLOSED)


@frozen
class ShardView:
    """What is known of one shard: the summary to show, None if no worker has ever answered.

    `processes` are the workers that answer now.
    """

    name: str
    summary: ShardSummary | None
    processes: Sequence[str]

    @property
    def active(self) -> str | None:
        """The active worker, if it answers."""
        named = None if self.summary is None else self.summary.active
        return named if named in self.processes else None


class Summaries:
    """Asks for summaries; requests that come in the meantime share the answer.

    `broker` watches the front end's connection. `wall_clock` gives seconds since the epoch.
    """

    def __init__(
        self, *, reports: ShardReports, broker: BrokerState, wall_clock: Callable[[], float]
    ) -> None:
        self._reports = reports
        self._broker = broker
        self._wall_clock = wall_clock
        self._known: dict[int, ShardSummary] = {}
        self._waiters: dict[Deferred[SummaryDocument], None] = {}  # an ordered set

    def current(self) -> Deferred[SummaryDocument]:
        """Fire with the present summary, within 3 s. Cancelling stops only this wait."""
        waiter: Deferred[SummaryDocument] = Deferred(lambda each: self._waiters.pop(each, None))
        self._waiters[waiter] = None
        if len(self._waiters) == 1:
            asked = Deferred.fromCoroutine(self._ask())
            asked.addCallbacks(self._answer, self._fail)
        return waiter

    def _answer(self, document: SummaryDocument) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(document)

    def _fail(self, reason: Failure) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.called:
                waiter.errback(reason)

    async def _ask(self) -> SummaryDocument:
        names = self._reports.shards
        answers = await gatherResults(
            [self._reports.summaries(index) for index in range(len(names))], consumeErrors=True
        )
        views = [self._view(index, name, answers[index]) for index, name in enumerate(names)]
        broker = BrokerDocument(self._broker.connected, self._broker.blocked)
        return merged(views, broker, self._broker.parked, self._wall_clock())

    def _view(self, index: int, name: str, answers: Sequence[ShardSummary]) -> ShardView:
        if answers:
            # The active worker's own numbers, else those of the replica that has read furthest.
            self._known[index] = max(
                answers, key=lambda each: (each.process == each.active, each.now)
            )
        processes = sorted(each.process for each in answers)
        return ShardView(name, self._known.get(index), processes)


def merged(
    views: Sequence[ShardView], broker: BrokerDocument, parked: int | None, now: float
) -> SummaryDocument:
    """Return the summary of these shards at `now`, in seconds since the epoch."""
    known = [view.summary for view in views if view.summary is not None]
    oldest = [each.oldest_waiting_at for each in known if each.oldest_waiting_at is not None]
    eta, reason = _eta(views)
    return SummaryDocument(
        tasks=OpenTasksDocument(
            sum(each.waiting for each in known),
            sum(each.calling for each in known),
            sum(each.retrying for each in known),
        ),
        ended=EndedLatelyDocument(
            _ended([each.last_minute for each in known]),
            _ended([each.last_hour for each in known]),
            _ended([each.last_day for each in known]),
        ),
        oldest_waiting_seconds=round(max(0.0, now - min(oldest)), 3) if oldest else None,
        eta_seconds=eta,
        eta_reason=reason,
        equipment=_equipment(known),
        dispatch=RUNNING,
        shards=[_shard(view) for view in views],
        parked=parked,
        broker=broker,
        incomplete=[view.name for view in views if not view.processes],
    )


def _ended(counts: Sequence[EndedCounts]) -> EndedDocument:
    return EndedDocument(
        sum(each.completed for each in counts),
        sum(each.failed for each in counts),
        sum(each.not_found for each in counts),
        sum(each.cancelled for each in counts),
    )


def _eta(views: Sequence[ShardView]) -> tuple[SecondsDocument | None, str | None]:
    """Return the range for the slowest shard, or the reason why there is none.

    There is neither if tasks wait for their keys.
    """
    lows, highs = [0.0], [0.0]
    known, reason = True, None
    for view in views:
        summary = view.summary
        if summary is None or (summary.open and view.active is None):
            return None, NO_WORKER
        if summary.low_s is None or summary.high_s is None:
            known = False
            if summary.equipment is not EquipmentState.CLOSED:
                reason = EQUIPMENT
        else:
            lows.append(summary.low_s)
            highs.append(summary.high_s)
    if not known:
        return None, reason
    return SecondsDocument(round(max(lows)), round(max(highs))), None


def _equipment(known: Sequence[ShardSummary]) -> EquipmentDocument:
    """Return the worst state that a shard's active worker reports."""
    worst = min(known, key=lambda each: _WORST_FIRST.index(each.equipment), default=None)
    if worst is None:
        return EquipmentDocument(EquipmentState.CLOSED, None, None, FIRST_GUESS_S)
    return EquipmentDocument(
        worst.equipment,
        time_text(worst.equipment_since),
        next((each.last_error for each in (worst, *known) if each.last_error is not None), None),
        round(median(each.typical_call_s for each in known), 3),
    )


def _shard(view: ShardView) -> ShardDocument:
    summary = view.summary
    return ShardDocument(
        view.name,
        None if summary is None else summary.waiting,
        view.active,
        [each for each in view.processes if each != view.active],
        None if summary is None else summary.concurrency,
    )

"""The metrics that only a worker has.

Only a shard's active worker tells about the shard's tasks and about service A; of a standby, these
metrics have no samples. So sums over all workers count each task once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rtprov.journal.summary import summarise
from rtprov.metrics.families import counter, gauge, histograms, number, states, total
from rtprov.model import EquipmentState

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from rtprov.worker.service import WorkerService
    from rtprov.worker.shard_parts import ShardParts

SHARD = ["shard"]


def worker_metrics(service: WorkerService) -> Iterator[Metric]:
    """Return the metrics of a worker."""
    active = [part for part in service.parts if part.presence.active_here]
    yield gauge(
        "rtprov_worker_active",
        "Whether this worker is the active one of the shard (1) or a standby (0)",
        [((str(part.shard),), float(part.presence.active_here)) for part in service.parts],
        SHARD,
    )
    yield gauge(
        "rtprov_replay_seconds",
        "Seconds that the latest replay of the shard's journal took",
        [
            ((str(part.shard),), part.journal.replay_s)
            for part in service.parts
            if part.journal.replay_s is not None
        ],
        SHARD,
    )
    yield from _tasks(active, service.wall_clock())
    yield from _ends(service.parts)
    yield from _calls(service, bool(active))
    yield number(
        "rtprov_parked_letters",
        "Messages that rtprov could not process, and that wait for an operator",
        service.parked.letters if active else None,
    )
    yield total(
        "rtprov_seal_key_unknown",
        "How often a task began to wait for a sealing key that this worker does not have",
        service.missing_keys.unknown_total,
    )


def _tasks(active: Sequence[ShardParts], now: float) -> Iterator[Metric]:
    """Return the metrics of open tasks at `now`, in seconds since the epoch."""
    summaries = {str(part.shard): summarise(part.store, "", now) for part in active}
    yield gauge(
        "rtprov_tasks",
        "Tasks that have not ended, by state",
        [
            ((shard, state), getattr(each, state))
            for shard, each in summaries.items()
            for state in ("waiting", "calling", "retrying")
        ],
        [*SHARD, "state"],
    )
    yield gauge(
        "rtprov_task_oldest_seconds",
        "Age of the oldest task that has never been called, 0 if there is none",
        [
            ((shard,), 0.0 if each.oldest_waiting_at is None else now - each.oldest_waiting_at)
            for shard, each in summaries.items()
        ],
        SHARD,
    )
    yield gauge(
        "rtprov_eta_seconds",
        "Estimated seconds until all open tasks have ended; no sample while A is in trouble",
        [
            ((shard,), (each.low_s + each.high_s) / 2)
            for shard, each in summaries.items()
            if each.low_s is not None and each.high_s is not None
        ],
        SHARD,
    )


def _ends(parts: Sequence[ShardParts]) -> Iterator[Metric]:
    yield counter(
        "rtprov_tasks_ended",
        "Tasks that ended while this worker was active, by final state and reason",
        ["state", "reason"],
        *(part.presence.ended for part in parts),
    )
    yield histograms(
        "rtprov_task_seconds",
        "Seconds from the acceptance of a task to its end",
        "outcome",
        *(part.presence.task_seconds for part in parts),
    )


def _calls(service: WorkerService, active: bool) -> Iterator[Metric]:
    yield histograms(
        "rtprov_call_seconds",
        "Seconds that calls to A took",
        "outcome",
        *(part.attempts.call_seconds for part in service.parts),
    )
    limiter = service.call_limiter
    # A worker that is no longer the active one may still finish calls.
    shown = active or limiter.used > 0
    yield states(
        "rtprov_equipment_state",
        "The state of the circuit breaker for A: 1 for the present state",
        limiter.state.value if shown else None,
        [state.value for state in EquipmentState],
    )
    yield number(
        "rtprov_call_slots",
        "Calls to A that this worker may make at the same time",
        limiter.concurrency if shown else None,
    )
    yield number(
        "rtprov_call_slots_used",
        "Calls to A that are under way, or about to begin",
        limiter.used if shown else None,
    )

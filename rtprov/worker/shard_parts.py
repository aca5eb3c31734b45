"""The parts that a worker has for each shard, and how they are connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from rtprov.journal.backlog import Backlog
from rtprov.journal.describe import describe_ended
from rtprov.journal.open_tasks import OpenTasks
from rtprov.journal.reader import JournalReader
from rtprov.journal.reports import StoreReports
from rtprov.journal.shard_journal import ShardJournal
from rtprov.journal.store import Store
from rtprov.model import Active, Marker, Unrecognised
from rtprov.queries.directory import TaskQueryServer
from rtprov.queries.report_server import ReportServer
from rtprov.queries.status import StatusServer
from rtprov.reports import FoundTask
from rtprov.worker.attempts import Attempts
from rtprov.worker.census import Census
from rtprov.worker.copies import WorkQueue
from rtprov.worker.dead_letters import DeadLetters
from rtprov.worker.journal_keeper import JournalKeeper
from rtprov.worker.presence import Presence
from rtprov.worker.read_ahead import ReadAhead
from rtprov.worker.shard_worker import ShardWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rtprov.amqp.client.publisher import Publisher
    from rtprov.amqp.client.service import Session
    from rtprov.history.history import History
    from rtprov.history.shard_history import ShardHistory
    from rtprov.interfaces import Equipment, Sealer
    from rtprov.journal.record import Record
    from rtprov.messaging.environment import Environment
    from rtprov.messaging.topology import Shard, Topology
    from rtprov.model import Event, TaskEvent
    from rtprov.queries.pieces import Pieces
    from rtprov.tracing.spans import Spans
    from rtprov.worker.call_limiter import CallLimiter
    from rtprov.worker.missing_keys import MissingKeys
    from rtprov.worker.pace import Pace
    from rtprov.worker.quarantine import Quarantine
    from rtprov.worker.settings import WorkerSettings


@frozen
class WorkerParts:
    """What all shards of a worker share. `window` is the prefetch of each shard's work queue."""

    environment: Environment
    settings: WorkerSettings
    topology: Topology
    publisher: Publisher
    equipment: Equipment
    sealer: Sealer
    missing_keys: MissingKeys
    call_limiter: CallLimiter
    quarantine: Quarantine
    pace: Pace
    process_id: str
    window: int
    backlogs: list[Backlog]
    pieces: Pieces
    spans: Spans
    history: History | None


@frozen
class ShardParts:
    """The parts of one shard. Attach `sessions` in this order, after topology and publisher."""

    shard: Shard
    store: Store
    status: StatusServer
    inquiries: TaskQueryServer
    worker: ShardWorker
    keeper: JournalKeeper
    journal: ShardJournal
    presence: Presence
    attempts: Attempts
    sessions: Sequence[Session]
    history: ShardHistory | None

    @property
    def own_queues(self) -> list[tuple[str, str]]:
        """The queues that questions come to, on the present connection, each with its routing
        key.
        """
        queues = (self.status.queue, self.shard.status), (self.inquiries.queue, self.shard.inquiry)
        return [(queue, key) for queue, key in queues if queue is not None]


@frozen
class ShardEvents:
    """Passes each event of a shard's journal to the parts that follow it."""

    store: Store
    journal: ShardJournal
    history: ShardHistory | None
    open_tasks: OpenTasks
    presence: Presence
    inquiries: TaskQueryServer
    missing_keys: MissingKeys
    worker: ShardWorker

    def apply(self, event: Event) -> None:
        """Apply the event to the replica, then to what depends on it; to the worker last."""
        self.store.apply(event)
        self.presence.on_event(event)
        if self.history is not None and not isinstance(event, (Marker, Unrecognised)):
            self.history.began(_written_at(event))
        if not isinstance(event, (Active, Marker, Unrecognised)):
            offset = self.journal.next_offset - 1
            self.open_tasks.on_event(event, offset, self.store.state(event.task_id))
        self.inquiries.on_event(event)
        self.missing_keys.on_event(event)
        self.worker.on_event(event)


def build_shard(shard: Shard, shared: WorkerParts) -> ShardParts:
    """Create a shard's parts and connect them."""
    environment, settings = shared.environment, shared.settings
    store = Store(settings.retention_s, Backlog(settings.concurrency, shared.backlogs))
    open_tasks = OpenTasks()
    history = (
        None
        if shared.history is None
        else keep_history(shared.history, shard, store, lambda: journal.first_offset == 0)
    )

    def journal_lost() -> None:
        open_tasks.journal_lost()
        keeper.journal_lost()

    journal = ShardJournal(
        shard=shard,
        apply=lambda event: events.apply(event),
        publisher=shared.publisher,
        clock=environment.clock,
        rng=environment.rng,
        new_marker_id=environment.new_id,
        lost=journal_lost,
        batches=settings.batch_events,
    )
    inquiries = TaskQueryServer(
        shard=shard,
        replica=store,
        journal=journal,
        reports=ReportServer(
            reports=StoreReports(store, shared.process_id),
            pieces=shared.pieces,
            clock=environment.clock,
            wall_clock=environment.wall_clock,
            history=history,
        ),
        key_ids=lambda: shared.sealer.key_ids,
        clock=environment.clock,
        wall_clock=environment.wall_clock,
        is_complete=lambda: keeper.complete,
    )
    status = StatusServer(shard=shard, replica=store, journal=journal, clock=environment.clock)
    presence = Presence(
        shard=shard,
        store=store,
        journal=journal,
        call_limiter=shared.call_limiter,
        process_id=shared.process_id,
        clock=environment.clock,
        wall_clock=environment.wall_clock,
        trace_of=lambda task_id, fingerprint: worker.trace(task_id, fingerprint),
    )
    attempts = Attempts(
        store=store,
        journal=journal,
        equipment=shared.equipment,
        sealer=shared.sealer,
        missing_keys=shared.missing_keys,
        call_limiter=shared.call_limiter,
        quarantine=shared.quarantine,
        pace=shared.pace,
        process_id=shared.process_id,
        patience_s=settings.patience_s,
        clock=environment.clock,
        wall_clock=environment.wall_clock,
        rng=environment.rng,
        spans=shared.spans,
    )
    queue = WorkQueue(shard=shard, publisher=shared.publisher, wall_clock=environment.wall_clock)
    reader = JournalReader(name=shard.journal, clock=environment.clock)
    census = Census(
        name=shard.work,
        store=store,
        open_tasks=open_tasks,
        journal=journal,
        reader=reader,
        queue=queue,
        presence=presence,
        worker=lambda: worker,
        repair=shared.topology.repair,
        new_marker_id=environment.new_id,
        clock=environment.clock,
        wall_clock=environment.wall_clock,
    )
    worker = ShardWorker(
        shard=shard,
        store=store,
        open_tasks=open_tasks,
        journal=journal,
        queue=queue,
        attempts=attempts,
        window=shared.window,
        on_marker=census.on_marker,
        on_delivery=presence.delivered,
        on_change=lambda: read_ahead.look_soon(),
        clock=environment.clock,
        wall_clock=environment.wall_clock,
    )
    read_ahead = ReadAhead(
        name=shard.work,
        window=shared.window,
        store=store,
        open_tasks=open_tasks,
        reader=reader,
        call_limiter=shared.call_limiter,
        jobs=worker.jobs,
        key_ids=lambda: shared.sealer.key_ids,
        take=worker.take,
        clock=environment.clock,
    )
    dead = DeadLetters(
        shard=shard,
        store=store,
        journal=journal,
        publisher=shared.publisher,
        clock=environment.clock,
        wall_clock=environment.wall_clock,
    )
    keeper = JournalKeeper(
        name=shard.journal,
        store=store,
        open_tasks=open_tasks,
        journal=journal,
        reader=reader,
        presence=presence,
        worker=worker,
        max_age_s=settings.journal_age_s,
        clock=environment.clock,
        wall_clock=environment.wall_clock,
    )
    events = ShardEvents(
        store=store,
        journal=journal,
        history=history,
        open_tasks=open_tasks,
        presence=presence,
        inquiries=inquiries,
        missing_keys=shared.missing_keys,
        worker=worker,
    )
    sessions: list[Session] = [journal, status, inquiries, dead, presence]
    sessions += [worker, read_ahead, census, keeper]
    if history is not None:
        sessions.insert(1, history)
    return ShardParts(
        shard,
        store,
        status,
        inquiries,
        worker,
        keeper,
        journal,
        presence,
        attempts,
        sessions,
        history,
    )


def keep_history(
    history: History, shard: Shard, store: Store, whole: Callable[[], bool]
) -> ShardHistory:
    """Return the history of a shard, which gets the ends of tasks from `store`.

    `whole` is that of `ShardHistory`.
    """
    kept = history.shard(
        shard,
        ended_before=lambda before: map(_ended, store.indexes.ended_before(before)),
        whole=whole,
    )
    store.on_end.append(lambda record: kept.ended(_ended(record)) if kept.replayed else None)
    return kept


def _ended(record: Record) -> FoundTask:
    return FoundTask(record.at, describe_ended(record))


def _written_at(event: TaskEvent | Active) -> float:
    """Return when an event was written to the journal, at the latest."""
    copied = getattr(event, "copied", None)
    return event.at if copied is None else max(event.at, copied.at)

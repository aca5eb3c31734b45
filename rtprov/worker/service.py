"""The worker's Twisted service: its connection to the broker, and the sessions for its shards."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.amqp.client.permissions import MayPublish
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.service import Session
from rtprov.errors import NotReady
from rtprov.history.history import History
from rtprov.interfaces import Equipment, Sealer
from rtprov.messaging.environment import (
    CONFIRM_DEADLINE_S,
    MAX_UNCONFIRMED,
    Environment,
    broker_connection,
)
from rtprov.messaging.first_key import KeySource, first_key_sessions
from rtprov.messaging.probe import broker_confirms
from rtprov.messaging.shard_count import ShardCount
from rtprov.messaging.topology import (
    TASKS_EXCHANGE,
    Topology,
)
from rtprov.messaging.upkeep import Upkeep
from rtprov.queries.pieces import Pieces
from rtprov.readiness import Readiness
from rtprov.tracing.spans import NO_SPANS, Spans
from rtprov.worker.call_limiter import CallLimiter
from rtprov.worker.circuit_breaker import CircuitBreaker
from rtprov.worker.missing_keys import MissingKeys
from rtprov.worker.pace import CALLS_A_TURN, Pace
from rtprov.worker.parked_count import ParkedCount
from rtprov.worker.quarantine import Quarantine
from rtprov.worker.settings import WorkerSettings
from rtprov.worker.shard_parts import WorkerParts, build_shard

EXPIRE_EVERY_S = 30.0
# "" is the default exchange, for replies and parked letters.
PUBLISHED_TO_BY_WORKER = (TASKS_EXCHANGE, "")
# Besides the tasks of calls under way, a worker holds tasks that wait for their device or for A.
# The prefetch leaves room for them, within its 16 bits in AMQP.
WAITING_ROOM = 2000
MAX_WINDOW = 65535


class WorkerService(Service):
    """A worker process: one connection to the broker and, for each shard, the journal's replica,
    the status server, the consumer of dead letters and the shard's worker.

    When it is stopped, no further call to A begins, and the calls under way get
    `settings.drain_s` seconds to finish. `equipment` makes the calls, `sealer` opens the orders,
    `key_source` creates the first sealing key if it may, `spans` records the spans of calls.
    `history` keeps ended tasks beyond the retention; it must be started before the worker, and
    stopped after it.
    """

    _log = Logger()

    def __init__(
        self,
        environment: Environment,
        settings: WorkerSettings,
        *,
        equipment: Equipment,
        sealer: Sealer,
        key_source: KeySource | None = None,
        spans: Spans = NO_SPANS,
        history: History | None = None,
    ) -> None:
        self._environment = environment
        self.history = history
        self._settings = settings
        breaker = CircuitBreaker(concurrency=settings.concurrency, rng=environment.rng)
        self.missing_keys = MissingKeys(sealer=sealer, clock=environment.clock)
        self.process_id = environment.new_id()[:12]
        self._call_limiter = CallLimiter(
            concurrency=settings.concurrency,
            breaker=breaker,
            pace=Pace(CALLS_A_TURN, environment.clock),
            clock=environment.clock,
            per_second=settings.calls_per_second,
        )
        self.shard_count = ShardCount(settings.shards[0].count, given=settings.shards_given)
        topology = Topology(settings.shards, replaces=True, count=self.shard_count)
        self._publisher = Publisher(
            clock=environment.clock,
            max_unconfirmed=MAX_UNCONFIRMED,
            confirm_deadline_s=CONFIRM_DEADLINE_S,
            on_unroutable=topology.repair,
        )
        sessions: list[Session] = [
            self.shard_count,
            topology,
            self._publisher,
            MayPublish(self._publisher, PUBLISHED_TO_BY_WORKER),
            *first_key_sessions(key_source, settings.shards[0].count, self._publisher, environment),
        ]
        shared = WorkerParts(
            environment=environment,
            settings=settings,
            topology=topology,
            publisher=self._publisher,
            equipment=equipment,
            sealer=sealer,
            missing_keys=self.missing_keys,
            call_limiter=self._call_limiter,
            quarantine=Quarantine(),
            pace=Pace(CALLS_A_TURN, environment.clock),
            process_id=self.process_id,
            window=min(MAX_WINDOW, 2 * settings.concurrency + WAITING_ROOM),
            backlogs=[],
            pieces=Pieces(environment.clock),
            spans=spans,
            history=history,
        )
        self.parts = parts = [build_shard(shard, shared) for shard in settings.shards]
        self.parked = ParkedCount(environment.clock)
        self.wall_clock = environment.wall_clock
        self.stores = [each.store for each in parts]
        self.inquiries = [each.inquiries for each in parts]
        self.workers = [each.worker for each in parts]
        self.keepers = [each.keeper for each in parts]
        for each in parts:
            sessions += each.sessions
        sessions.append(self.missing_keys)
        sessions.append(
            Upkeep(
                topology=topology,
                own=lambda: [own for each in parts for own in each.own_queues],
                clock=environment.clock,
            )
        )
        sessions.append(self.parked)
        self.connection = broker_connection("worker", environment, sessions)
        self.readiness = Readiness(self._probe, environment.clock)
        self._expiry = LoopingCall(self._expire)
        self._expiry.clock = environment.clock
        self._draining: list[Deferred[None]] = []
        self._stopping_now = False

    @property
    def calls(self) -> int:
        """How many calls to A are under way."""
        return sum(worker.calling for worker in self.workers)

    @property
    def publisher(self) -> Publisher:
        """The publisher of all messages but replies."""
        return self._publisher

    @property
    def call_limiter(self) -> CallLimiter:
        """Limits the calls to A of all shards."""
        return self._call_limiter

    async def _probe(self) -> None:
        """Raise `NotReady` if the worker stops, is not connected, or cannot publish."""
        if not self.running:
            raise NotReady("Not ready: the worker is stopping")
        if not self.connection.connected:
            raise NotReady(
                "Not ready: the worker is not connected to the broker, or still replays its"
                " journals"
            )
        await broker_confirms(self._publisher, self._environment.clock)

    def startService(self) -> None:
        super().startService()
        self.connection.startService()
        expiring = self._expiry.start(EXPIRE_EVERY_S, now=False)
        expiring.addErrback(
            lambda reason: self._log.failure(
                "finished tasks are no longer removed from memory", reason
            )
        )

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._draining = [
            Deferred.fromCoroutine(worker.drain(self._settings.drain_s)) for worker in self.workers
        ]
        if self._stopping_now:
            self.stop_now()
        await gatherResults(self._draining)
        if self._expiry.running:
            self._expiry.stop()
        await self.connection.stopService()
        self._call_limiter.stop()
        self.missing_keys.stop()

    def stop_now(self) -> None:
        """Do not wait for calls under way when stopping: cancel them. May be called before
        `stopService`. The broker delivers their tasks again, and the next active worker calls A
        for them.
        """
        self._stopping_now = True
        for draining in self._draining:
            draining.cancel()

    def _expire(self) -> None:
        now = self._environment.wall_clock.without_jumps(self._settings.retention_s)
        for part in self.parts:
            if part.history is not None:
                if part.history.catching_up:
                    continue  # it reads the ended tasks from the store
                part.history.forgotten(now - self._settings.retention_s)
            part.store.expire(now, part.keeper.keeps)

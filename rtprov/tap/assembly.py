"""How the parts are joined to a front end and to a worker. Reactor, endpoints, ids and randomness come from the caller, so that tests can
join the same parts in memory on a virtual clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.amqp.connection import BrokerConnection, Session
from rtprov.amqp.permissions import MayPublish
from rtprov.amqp.publisher import Publisher
from rtprov.amqp.rpc import RpcClient
from rtprov.amqp.topology import STATUS_EXCHANGE, TASKS_EXCHANGE, Shard, Topology
from rtprov.amqp.url import BrokerUrl
from rtprov.attempts import Attempts
from rtprov.backlog import Backlog
from rtprov.breaker import Breaker
from rtprov.clocks import WallClock
from rtprov.deadletters import DeadLetters
from rtprov.ends import EndsOfTasks
from rtprov.errors import NotReady
from rtprov.first_key import FirstKey, KeySource
from rtprov.frontend import Frontend
from rtprov.gate import Gate
from rtprov.health import Readiness, broker_confirms, readiness_of_frontend
from rtprov.inquiries import Directory, InquiryServer
from rtprov.interfaces import Equipment, Sealer
from rtprov.journal import ShardJournal, TaskPublisher
from rtprov.missing_keys import MissingKeys
from rtprov.model import Event
from rtprov.presence import Presence
from rtprov.quarantine import Quarantine
from rtprov.shared_keys import SharedKeys
from rtprov.status import StatusClient, StatusServer
from rtprov.store import Store
from rtprov.worker import ShardWorker

MAX_UNCONFIRMED = 10_000
CONFIRM_DEADLINE_S = 4.0
EXPIRE_EVERY_S = 30.0
PUBLISHED_TO_BY_FRONTEND = (TASKS_EXCHANGE, STATUS_EXCHANGE)
PUBLISHED_TO_BY_WORKER = (TASKS_EXCHANGE, "")  # the default exchange: replies, and letters to be parked
# Beside the calls under way a worker holds tasks that wait for their device or for A: room for them, within AMQP's 16 bits of prefetch.
WAITING_ROOM = 2000
MAX_WINDOW = 65535


@frozen
class Surroundings:
    """What a role gets from the process it lives in.

    `clock` is the awake clock that all deadlines run on (`rtprov.clocks`); `new_id` makes 32 hexadecimal digits.
    """

    clock: IReactorTime
    wall_clock: WallClock
    rng: random.Random
    new_id: Callable[[], str]
    broker: IStreamClientEndpoint
    broker_url: BrokerUrl


@frozen
class WorkerSettings:
    """The worker's options, as the contract names them; times in seconds."""

    shards: Sequence[Shard]
    concurrency: int = 500
    retention_s: float = 86400.0
    patience_s: float = 600.0
    drain_s: float = 120.0


class FrontendService(Service):
    """A front end's way to the broker, and its `frontend`, whose resource is to be served.

    `process_id` names it in what tasks tell. `key_source` is where the sealer's first key comes from, if it has none yet.
    """

    _log = Logger()

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        sealer: Sealer,
        shards: int,
        running_status: int,
        max_unconfirmed: int = MAX_UNCONFIRMED,
        key_source: KeySource | None = None,
    ) -> None:
        clock = surroundings.clock
        self.process_id = surroundings.new_id()[:12]
        publisher = Publisher(clock=clock, max_unconfirmed=max_unconfirmed, confirm_deadline_s=CONFIRM_DEADLINE_S)
        rpc = RpcClient(clock=clock)
        statuses = StatusClient(rpc=rpc, shards=shards, clock=clock)
        topology = Topology([Shard(index, shards) for index in range(shards)])
        may_publish = MayPublish(publisher, PUBLISHED_TO_BY_FRONTEND)
        self.keys = keys = SharedKeys(rpc=rpc, sealer=sealer, shards=shards, clock=clock)
        first_key = _first_key(key_source, shards, publisher, surroundings)
        sessions: list[Session] = [topology, publisher, may_publish, *first_key, rpc, statuses, keys]
        self.connection = _connection("frontend", surroundings, sessions)
        self.ends = EndsOfTasks(rpc=rpc, shards=shards, clock=clock)
        self.readiness = readiness_of_frontend(publisher, rpc, shards, keys, clock)
        self.frontend = Frontend(
            tasks=TaskPublisher(publisher=publisher, shards=shards, refusal=keys.refusal),
            statuses=statuses,
            directory=Directory(rpc=rpc, shards=shards),
            ends=self.ends,
            readiness=self.readiness,
            sealer=sealer,
            clock=clock,
            new_task_id=surroundings.new_id,
            wall_clock=surroundings.wall_clock,
            running_status=running_status,
            process_id=self.process_id,
        )

    def startService(self) -> None:
        super().startService()
        self._log.info("front end {process_id} starts", process_id=self.process_id)
        self.connection.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.ends.stop()
        return self.connection.stopService()


class WorkerService(Service):
    """A worker: its connection to the broker with, for each shard, journal, status server, dead letters and the shard's worker.

    Stopping it drains first: no further call to A begins, those under way get `drain_s` to end.
    """

    _log = Logger()

    def __init__(
        self,
        surroundings: Surroundings,
        settings: WorkerSettings,
        *,
        equipment: Equipment,
        sealer: Sealer,
        key_source: KeySource | None = None,
    ) -> None:
        self._surroundings = surroundings
        self._settings = settings
        self._equipment = equipment
        self._sealer = sealer
        breaker = Breaker(concurrency=settings.concurrency, rng=surroundings.rng)
        self._quarantine = Quarantine()
        self.missing_keys = MissingKeys(sealer=sealer, clock=surroundings.clock)
        self._process_id = surroundings.new_id()[:12]
        self._gate = Gate(concurrency=settings.concurrency, breaker=breaker, clock=surroundings.clock)
        self._publisher = Publisher(clock=surroundings.clock, max_unconfirmed=MAX_UNCONFIRMED, confirm_deadline_s=CONFIRM_DEADLINE_S)
        self._backlogs: list[Backlog] = []
        self.stores: list[Store] = []
        self.workers: list[ShardWorker] = []
        self.inquiries: list[InquiryServer] = []
        sessions: list[Session] = [
            Topology(settings.shards, replaces=True),
            self._publisher,
            MayPublish(self._publisher, PUBLISHED_TO_BY_WORKER),
            *_first_key(key_source, settings.shards[0].count, self._publisher, surroundings),
        ]
        for shard in settings.shards:
            sessions += self._shard_sessions(shard)
        sessions.append(self.missing_keys)
        self.connection = _connection("worker", surroundings, sessions)
        self.readiness = Readiness(self._probe, surroundings.clock)
        self._expiry = LoopingCall(self._expire)
        self._expiry.clock = surroundings.clock
        self._draining: list[Deferred[None]] = []
        self._hurried = False

    def _shard_sessions(self, shard: Shard) -> list[Session]:
        outer, settings = self._surroundings, self._settings
        store = Store(settings.retention_s, Backlog(settings.concurrency, self._backlogs))

        def apply(event: Event) -> None:
            presence.saw(event, store.apply)
            inquiries.saw(event)
            self.missing_keys.saw(event)

        journal = ShardJournal(
            shard=shard, apply=apply, publisher=self._publisher, clock=outer.clock, rng=outer.rng, new_marker_id=outer.new_id
        )
        inquiries = InquiryServer(
            shard=shard,
            replica=store,
            journal=journal,
            key_ids=lambda: self._sealer.key_ids,
            clock=outer.clock,
            wall_clock=outer.wall_clock,
        )
        status = StatusServer(shard=shard, replica=store, journal=journal, clock=outer.clock)
        presence = Presence(
            shard=shard,
            store=store,
            journal=journal,
            gate=self._gate,
            process_id=self._process_id,
            clock=outer.clock,
            wall_clock=outer.wall_clock,
        )
        attempts = Attempts(
            store=store,
            journal=journal,
            equipment=self._equipment,
            sealer=self._sealer,
            missing_keys=self.missing_keys,
            gate=self._gate,
            quarantine=self._quarantine,
            process_id=self._process_id,
            patience_s=settings.patience_s,
            clock=outer.clock,
            wall_clock=outer.wall_clock,
            rng=outer.rng,
        )
        worker = ShardWorker(
            shard=shard,
            store=store,
            journal=journal,
            attempts=attempts,
            window=min(MAX_WINDOW, 2 * settings.concurrency + WAITING_ROOM),
            on_delivery=presence.delivered,
            clock=outer.clock,
            wall_clock=outer.wall_clock,
        )
        dead = DeadLetters(
            shard=shard, store=store, journal=journal, publisher=self._publisher, clock=outer.clock, wall_clock=outer.wall_clock
        )
        self.stores.append(store)
        self.inquiries.append(inquiries)
        self.workers.append(worker)
        return [journal, status, inquiries, dead, presence, worker]

    async def _probe(self) -> None:
        """Raises `NotReady`."""
        if not self.running:
            raise NotReady("Not ready: it stops")
        if not self.connection.connected:
            raise NotReady("Not ready: it is not connected to the broker, or still replays its journals")
        await broker_confirms(self._publisher, self._surroundings.clock)

    def startService(self) -> None:
        super().startService()
        self.connection.startService()
        expiring = self._expiry.start(EXPIRE_EVERY_S, now=False)
        expiring.addErrback(lambda reason: self._log.failure("finished tasks are no longer forgotten", reason))

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._draining = [Deferred.fromCoroutine(worker.drain(self._settings.drain_s)) for worker in self.workers]
        if self._hurried:
            self.hurry()
        await gatherResults(self._draining)
        if self._expiry.running:
            self._expiry.stop()
        await self.connection.stopService()
        self._gate.stop()
        self.missing_keys.stop()

    def hurry(self) -> None:
        """Cut the calls short that a stop waits for, now or when it comes: their tasks are called again, by whoever gets them next."""
        self._hurried = True
        for draining in self._draining:
            draining.cancel()

    def _expire(self) -> None:
        now = self._surroundings.wall_clock.without_jumps(self._settings.retention_s)
        for store in self.stores:
            store.expire(now)


def _first_key(source: KeySource | None, shards: int, publisher: Publisher, surroundings: Surroundings) -> list[Session]:
    """What sees to it that there is a sealing key, where it may have to be made."""
    return [] if source is None else [FirstKey(source=source, shards=shards, publisher=publisher, new_marker_id=surroundings.new_id)]


def _connection(name: str, surroundings: Surroundings, sessions: Sequence[Session]) -> BrokerConnection:
    return BrokerConnection(
        name=name,
        endpoint=surroundings.broker,
        url=surroundings.broker_url,
        clock=surroundings.clock,
        rng=surroundings.rng,
        sessions=sessions,
    )

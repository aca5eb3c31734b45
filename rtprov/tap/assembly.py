"""How the parts are joined to a front end and to a worker. Reactor, endpoints, ids and randomness
come from the caller, so that tests can join the same parts in memory on a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.amqp.client.permissions import MayPublish
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.rpc import RpcClient
from rtprov.amqp.client.service import BrokerConnection, Session
from rtprov.amqp.client.url import BrokerUrl
from rtprov.clocks import WallClock
from rtprov.errors import NotReady
from rtprov.frontend.readiness import readiness_of_frontend
from rtprov.frontend.resource import Frontend
from rtprov.http.health import Readiness
from rtprov.interfaces import Equipment, Sealer
from rtprov.journal.first_key import FirstKey, KeySource
from rtprov.journal.shard_journal import TaskPublisher
from rtprov.messaging.probe import broker_confirms
from rtprov.messaging.shard_count import ShardCount
from rtprov.messaging.topology import (
    JOURNAL_MAX_AGE_S,
    STATUS_EXCHANGE,
    TASKS_EXCHANGE,
    Shard,
    Topology,
)
from rtprov.messaging.upkeep import Upkeep
from rtprov.queries.directory import Directory
from rtprov.queries.shared_keys import SharedKeys
from rtprov.queries.status import StatusClient
from rtprov.queries.watches import EndsOfTasks
from rtprov.worker.call_limiter import Gate
from rtprov.worker.circuit_breaker import Breaker
from rtprov.worker.missing_keys import MissingKeys
from rtprov.worker.quarantine import Quarantine
from rtprov.worker.shard_parts import Shared, join_shard

MAX_UNCONFIRMED = 10_000
CONFIRM_DEADLINE_S = 4.0
EXPIRE_EVERY_S = 30.0
PUBLISHED_TO_BY_FRONTEND = (TASKS_EXCHANGE, STATUS_EXCHANGE)
# the default exchange: replies, and letters to be parked
PUBLISHED_TO_BY_WORKER = (TASKS_EXCHANGE, "")
# Beside the calls under way a worker holds tasks that wait for their device or for A: room for
# them, within AMQP's 16 bits of prefetch.
WAITING_ROOM = 2000
MAX_WINDOW = 65535


@frozen
class Surroundings:
    """What a role gets from the process it lives in.

    `clock` is the awake clock that all deadlines run on (`rtprov.clocks`); `new_id` makes 32
    hexadecimal digits."""

    clock: IReactorTime
    wall_clock: WallClock
    rng: random.Random
    new_id: Callable[[], str]
    broker: IStreamClientEndpoint
    broker_url: BrokerUrl


@frozen
class WorkerSettings:
    """The worker's options, as the contract names them; times in seconds.

    `journal_age_s` is how long the broker keeps journals. With `shards_given`, the operator asked
    for the number of shards."""

    shards: Sequence[Shard]
    concurrency: int = 500
    retention_s: float = 86400.0
    patience_s: float = 600.0
    drain_s: float = 120.0
    journal_age_s: float = JOURNAL_MAX_AGE_S
    shards_given: bool = True


class FrontendService(Service):
    """A front end's way to the broker, and its `frontend`, whose resource is to be served.

    `process_id` names it in what tasks tell. `key_source` is where the sealer's first key comes
    from, if it has none yet. It is made for `shards` shards; with `shards_given`, the operator
    asked for that number (`rtprov.messaging.shard_count`)."""

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
        shards_given: bool = True,
    ) -> None:
        clock = surroundings.clock
        self.process_id = surroundings.new_id()[:12]
        self.shard_count = ShardCount(shards, given=shards_given)
        topology = Topology(
            [Shard(index, shards) for index in range(shards)], count=self.shard_count
        )
        publisher = Publisher(
            clock=clock,
            max_unconfirmed=max_unconfirmed,
            confirm_deadline_s=CONFIRM_DEADLINE_S,
            on_unroutable=topology.repair,
        )
        rpc = RpcClient(clock=clock)
        statuses = StatusClient(
            rpc=rpc, shards=shards, clock=clock, in_doubt=self.shard_count.verify
        )
        may_publish = MayPublish(publisher, PUBLISHED_TO_BY_FRONTEND)
        self.keys = keys = SharedKeys(rpc=rpc, sealer=sealer, shards=shards, clock=clock)
        first_key = _first_key(key_source, shards, publisher, surroundings)
        sessions: list[Session] = [
            self.shard_count,
            topology,
            publisher,
            may_publish,
            *first_key,
            rpc,
            statuses,
            keys,
        ]
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
    """A worker: its connection to the broker with, for each shard, journal, status server, dead
    letters and the shard's worker.

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
        breaker = Breaker(concurrency=settings.concurrency, rng=surroundings.rng)
        self.missing_keys = MissingKeys(sealer=sealer, clock=surroundings.clock)
        self._process_id = surroundings.new_id()[:12]
        self._gate = Gate(
            concurrency=settings.concurrency, breaker=breaker, clock=surroundings.clock
        )
        self.shard_count = ShardCount(settings.shards[0].count, given=settings.shards_given)
        topology = Topology(settings.shards, replaces=True, count=self.shard_count)
        self._publisher = Publisher(
            clock=surroundings.clock,
            max_unconfirmed=MAX_UNCONFIRMED,
            confirm_deadline_s=CONFIRM_DEADLINE_S,
            on_unroutable=topology.repair,
        )
        sessions: list[Session] = [
            self.shard_count,
            topology,
            self._publisher,
            MayPublish(self._publisher, PUBLISHED_TO_BY_WORKER),
            *_first_key(key_source, settings.shards[0].count, self._publisher, surroundings),
        ]
        shared = Shared(
            surroundings=surroundings,
            settings=settings,
            topology=topology,
            publisher=self._publisher,
            equipment=equipment,
            sealer=sealer,
            missing_keys=self.missing_keys,
            gate=self._gate,
            quarantine=Quarantine(),
            process_id=self._process_id,
            window=min(MAX_WINDOW, 2 * settings.concurrency + WAITING_ROOM),
            backlogs=[],
        )
        parts = [join_shard(shard, shared) for shard in settings.shards]
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
                clock=surroundings.clock,
            )
        )
        self.connection = _connection("worker", surroundings, sessions)
        self.readiness = Readiness(self._probe, surroundings.clock)
        self._expiry = LoopingCall(self._expire)
        self._expiry.clock = surroundings.clock
        self._draining: list[Deferred[None]] = []
        self._hurried = False

    async def _probe(self) -> None:
        """Raises `NotReady`."""
        if not self.running:
            raise NotReady("Not ready: it stops")
        if not self.connection.connected:
            raise NotReady(
                "Not ready: it is not connected to the broker, or still replays its journals"
            )
        await broker_confirms(self._publisher, self._surroundings.clock)

    def startService(self) -> None:
        super().startService()
        self.connection.startService()
        expiring = self._expiry.start(EXPIRE_EVERY_S, now=False)
        expiring.addErrback(
            lambda reason: self._log.failure("finished tasks are no longer forgotten", reason)
        )

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._draining = [
            Deferred.fromCoroutine(worker.drain(self._settings.drain_s)) for worker in self.workers
        ]
        if self._hurried:
            self.hurry()
        await gatherResults(self._draining)
        if self._expiry.running:
            self._expiry.stop()
        await self.connection.stopService()
        self._gate.stop()
        self.missing_keys.stop()

    def hurry(self) -> None:
        """Cut the calls short that a stop waits for, now or when it comes: their tasks are called
        again, by whoever gets them next.
        """
        self._hurried = True
        for draining in self._draining:
            draining.cancel()

    def _expire(self) -> None:
        now = self._surroundings.wall_clock.without_jumps(self._settings.retention_s)
        for store, keeper in zip(self.stores, self.keepers, strict=True):
            store.expire(now, keeper.keeps)


def _first_key(
    source: KeySource | None, shards: int, publisher: Publisher, surroundings: Surroundings
) -> list[Session]:
    """What sees to it that there is a sealing key, where it may have to be made."""
    return (
        []
        if source is None
        else [
            FirstKey(
                source=source, shards=shards, publisher=publisher, new_marker_id=surroundings.new_id
            )
        ]
    )


def _connection(
    name: str, surroundings: Surroundings, sessions: Sequence[Session]
) -> BrokerConnection:
    return BrokerConnection(
        name=name,
        endpoint=surroundings.broker,
        url=surroundings.broker_url,
        clock=surroundings.clock,
        rng=surroundings.rng,
        sessions=sessions,
    )

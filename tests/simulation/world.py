"""The world of one seed: roles and their processes, which start, die and start again, on one clock,
one network and one disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, maybeDeferred

from rtprov.amqp.client.url import BrokerUrl
from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.equipment.client import HttpEquipment, equipment_agent
from rtprov.frontend.service import FrontendService
from rtprov.http.site import JsonSite
from rtprov.messaging.environment import Environment
from rtprov.messaging.topology import Shard
from rtprov.tap.sharded import Sharded
from rtprov.worker.service import WorkerService
from rtprov.worker.settings import WorkerSettings
from tests.simulation.checks import Checks
from tests.simulation.clock import Role, WorldClock
from tests.simulation.disk import Disk, SimulatedStorage
from tests.simulation.knobs import DELIVERY_LIMIT, LATE_STREAMS, LONG_JOURNALS, READING_S, draw
from tests.simulation.network import Network
from tests.simulation.orders import Key, Order
from tests.simulation.service_a import LONGEST_RETRY_AFTER_S, ServiceA
from tests.simulation.trace import Trace
from tests.support.fakes import PlainSealer

SHORTEST_DEADLINE_S = 90.0
URL = BrokerUrl.parse("amqp://guest:guest@broker/")


@frozen
class Setup:
    """The random properties of a seed's world."""

    workers: int
    frontends: int
    shards: int
    concurrency: int
    patience_s: float
    drain_s: float
    skew_s: float  # the largest offset of a machine's clock, ahead or behind
    split: float
    slow: float
    delay_s: float
    knobs: tuple[str, ...]
    retention_s: float = 86400.0

    @classmethod
    def draw(cls, rng: random.Random) -> Setup:
        return cls(
            workers=rng.choice([1, 2, 2, 2, 2, 3]),
            frontends=rng.choice([1, 1, 2]),
            shards=rng.choice([1, 1, 1, 2]),
            concurrency=rng.choice([1, 2, 500, 500]),
            patience_s=rng.choice([20.0, 100.0, 600.0]),
            drain_s=rng.choice([2.0, 30.0, 120.0]),
            skew_s=rng.choice([0.0, 0.0, 5.0, 300.0]),
            split=rng.choice([0.0, 0.05, 0.4]),
            slow=rng.choice([0.0, 0.0, 0.02]),
            delay_s=rng.choice([0.3, 3.0, 10.0]),
            knobs=draw(rng),
        )


class Process(Protocol):
    """One process of a role, from its start to its end."""

    role: Role

    def stop(self) -> Deferred[Any]:
        """Stop as after SIGTERM. The Deferred fires when the process may exit."""

    def died(self) -> None:
        """The process has ended, in whatever way."""


@define(eq=False)
class Service:
    """A process of a front end or worker. `service` is made for the number of shards, `given` is
    the number on its command line.
    """

    role: Role
    sharded: Sharded[Any]
    sealer: PlainSealer
    given: int | None

    @property
    def service(self) -> FrontendService | WorkerService:
        service: FrontendService | WorkerService = self.sharded.role
        return service

    def stop(self) -> Deferred[Any]:
        return maybeDeferred(self.sharded.stopService)

    def died(self) -> None: ...


@define(eq=False)
class Broker:
    """A process of the broker; `real` is the broker under test."""

    role: Role
    real: Any
    storage: SimulatedStorage

    def stop(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.real.stop()
        await self.storage.close()

    def died(self) -> None:
        self.storage.die()


@define(eq=False)
class Stateless:
    """A process of service A."""

    role: Role

    def stop(self) -> Deferred[Any]:
        stopped: Deferred[Any] = Deferred()
        stopped.callback(None)
        return stopped

    def died(self) -> None: ...


@define(eq=False)
class World:
    """Everything in a run. `processes` are the living ones, by name: ``broker``, ``a``, ``b1`` …
    and ``w1`` …

    `shards` is the number of shards; `changed` says whether it was changed.
    `without_option` says for each role whether it runs without ``--shards``; it is empty if the
    number stays the same. Roles in `held` are not started.
    """

    seed: int
    setup: Setup
    clock: WorldClock = field(factory=WorldClock)
    processes: dict[str, Process] = field(factory=dict)
    graveyard: list[Process] = field(factory=list)
    stopping: set[str] = field(factory=set)
    closing: bool = False
    shards: int = field(init=False)
    changed: bool = False
    without_option: dict[str, bool] = field(factory=dict)
    held: set[str] = field(factory=set)
    url: BrokerUrl = URL
    orders: list[Order] = field(factory=list)
    # by role, if it is not the file that all started with
    key_files: dict[str, tuple[str, ...]] = field(factory=dict)
    trace: Trace = field(init=False)
    network: Network = field(init=False)
    checks: Checks = field(init=False)
    disk: Disk = field(init=False)
    a: ServiceA = field(init=False)
    _lives: dict[str, int] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.shards = self.setup.shards
        self.trace = Trace(self.clock)
        self.network = Network(
            self.clock, self.rng("network"), split=self.setup.split, slow=self.setup.slow
        )
        patience_s = (
            min(self.setup.patience_s - LONGEST_RETRY_AFTER_S, SHORTEST_DEADLINE_S)
            - 2 * self.setup.skew_s
        )
        knobs = self.setup.knobs
        self.checks = Checks(
            self.trace,
            self.clock,
            self.network,
            patience_s,
            self.setup.patience_s,
            DELIVERY_LIMIT in knobs,
            LATE_STREAMS in knobs,
            LATE_STREAMS in knobs or LONG_JOURNALS in knobs,
        )
        self.network.on_link = self.checks.on_link
        self.disk = self.checks.disk = Disk(self.checks.on_written)
        self.disk.reading_s = READING_S if LONG_JOURNALS in knobs else 0.0
        self.a = ServiceA(
            Role("a", self.clock),
            self.rng("a"),
            self.checks.on_call,
            self.checks.on_answer,
            self.setup.delay_s,
        )

    def rng(self, name: str) -> random.Random:
        """Return a separate random generator, so that its use does not change the numbers of the
        others.
        """
        return random.Random(f"{self.seed}/{name}")

    @property
    def frontends(self) -> list[str]:
        return [f"b{number}" for number in range(1, self.setup.frontends + 1)]

    @property
    def names(self) -> list[str]:
        """The names of all roles, running or not."""
        return [
            "broker",
            "a",
            *self.frontends,
            *(f"w{number}" for number in range(1, self.setup.workers + 1)),
        ]

    def new_order(self, device: str, key: Key | None = None) -> Order:
        """Return an order with a unique body."""
        number = len(self.orders) + 1
        timeout_s = self.rng(f"order {number}").choice([1, 14, 60, 100])
        body = (
            b'{"timeoutInSeconds": %d, "parameters": [{"vlan": 534}, {"order": %d}, {"password":'
            b' "p\xc3\xa4ss"}]}' % (timeout_s, number)
        )
        order = Order(number, device, body, key)
        self.orders.append(order)
        self.checks.orders[body] = order
        return order

    # Starting.

    def start(self, name: str) -> None:
        """Start a role. Do nothing if it runs, is held, or the world is `closing`."""
        if name in self.processes or name in self.held or self.closing:
            return
        life = self._lives[name] = self._lives.get(name, 0) + 1
        rng = self.rng(f"{name} {life}")
        role = Role(name, self.clock, rng.uniform(-self.setup.skew_s, self.setup.skew_s))
        self.trace.note(f"{name} starts")
        kinds = {
            "broker": self._start_broker,
            "a": self._start_a,
            "b": self._start_frontend,
            "w": self._start_worker,
        }
        self.processes[name] = kinds[name.rstrip("0123456789")](role, rng)

    def _start_broker(self, role: Role, rng: random.Random) -> Process:
        storage = SimulatedStorage(self.disk, role=role, world=self.clock, rng=rng)
        broker = make_broker(clock=role.clock, storage=storage)
        self.network.listen(role, "broker", BrokerFactory(broker))
        return Broker(role, broker, storage)

    def _start_a(self, role: Role, rng: random.Random) -> Process:
        self.a.role = role
        self.network.listen(role, "a", self.a)
        return Stateless(role)

    def _start_frontend(self, role: Role, rng: random.Random) -> Process:
        sealer = PlainSealer(*self.key_files.get(role.name, ()))
        given = self._given(role.name)

        def make(shards: int) -> FrontendService:
            around = self._environment(role, rng)
            return FrontendService(
                around,
                sealer=sealer,
                shards=shards,
                running_status=200,
                shards_given=given is not None,
            )

        def serve(service: FrontendService) -> None:
            if role.alive and role.name not in self.stopping:
                self.network.listen(
                    role, role.name, JsonSite(service.frontend.resource(), reactor=role.clock)
                )

        sharded = Sharded(make, given, role.clock)
        sharded.on_made = serve
        serve(sharded.role)
        sharded.startService()
        return Service(role, sharded, sealer, given)

    def _start_worker(self, role: Role, rng: random.Random) -> Process:
        agent = equipment_agent(
            self.network.endpoint(role, "a"), concurrency=self.setup.concurrency, clock=role.clock
        )
        equipment = HttpEquipment(
            agent=agent, base_url="http://a", clock=role.clock, wall_clock=role.wall_clock
        )
        sealer = PlainSealer(*self.key_files.get(role.name, ()))
        given = self._given(role.name)

        def make(shards: int) -> WorkerService:
            settings = WorkerSettings(
                shards=[Shard(index, shards) for index in range(shards)],
                concurrency=self.setup.concurrency,
                patience_s=self.setup.patience_s,
                drain_s=self.setup.drain_s,
                # Workers with and without the option work together.
                batch_events=self.rng(f"{role.name} writes batches").random() < 0.5,
                retention_s=self.setup.retention_s,
                shards_given=given is not None,
            )
            return WorkerService(
                self._environment(role, rng), settings, equipment=equipment, sealer=sealer
            )

        sharded = Sharded(make, given, role.clock)
        sharded.startService()
        return Service(role, sharded, sealer, given)

    def _given(self, name: str) -> int | None:
        """Return the number of shards on a role's command line. It must be there if the broker
        knows no number yet, because the default would be 1.
        """
        without_option = self.without_option.get(name, False) and (self.changed or self.shards == 1)
        return None if without_option else self.shards

    def _environment(self, role: Role, rng: random.Random) -> Environment:
        return Environment(
            clock=role.clock,
            wall_clock=role.wall_clock,
            rng=rng,
            new_id=lambda: f"{rng.getrandbits(128):032x}",
            broker=self.network.endpoint(role, "broker"),
            broker_url=URL,
        )

    def replace_key_file(self, name: str, keys: tuple[str, ...], noticed_after_s: float) -> None:
        """Give a role another key file. A running process notices it after `noticed_after_s`, a new
        process reads it at once.
        """
        self.key_files[name] = keys
        process = self.processes.get(name)
        if isinstance(process, Service):
            self.clock.call_later(process.role, noticed_after_s, self._notice, name, process)

    def _notice(self, name: str, process: Service) -> None:
        if process.sealer.key_ids != self.key_files[name]:
            process.sealer.replace(*self.key_files[name])

    # Ending and suspending.

    def kill(self, name: str, silent_s: float | None = None) -> None:
        """Kill a role as ``kill -9`` does. With `silent_s`, it is like a power loss: its peers are
        notified only after so many seconds.
        """
        process = self.processes.get(name)
        if process is not None:
            self.trace.note(
                f"{name} is killed"
                if silent_s is None
                else f"{name} loses its power, {silent_s:.0f} s of silence"
            )
            self._end(name, process, silent_s)

    def stop(self, name: str, then: Callable[[], object] = lambda: None) -> None:
        """Stop a role as after SIGTERM. `then` is called when its process has ended, unless it was
        killed before.
        """
        process = self.processes.get(name)
        if process is None or name in self.stopping:
            return
        self.trace.note(f"{name} is told to stop")
        self.stopping.add(name)
        self.network.role_left(process.role)

        def exit() -> None:
            if process.role.alive:
                self._end(name, process, None)
                then()

        def stopped(_: object) -> None:
            if process.role.alive:
                self.trace.note(f"{name} has stopped")
                # A reactor still completes its last iteration.
                self.clock.call_later(None, 0.0, exit)

        process.stop().addBoth(stopped)

    def freeze(self, name: str, seconds: float) -> None:
        """Suspend a role's process (SIGSTOP), and with it its connections."""
        process = self.processes.get(name)
        if process is not None:
            self.trace.note(f"{name} stands still for {seconds:.1f} s")
            process.role.freeze(seconds)
            self.network.disturb(process.role)

    def set_clock(self, name: str, offset_s: float) -> None:
        """Step the system clock of a role's machine."""
        process = self.processes.get(name)
        if process is not None:
            self.trace.note(f"{name}'s clock is set to {offset_s:+.1f} s")
            process.role.set_clock(offset_s)

    @property
    def frozen(self) -> bool:
        """Whether some process is suspended."""
        return any(
            process.role.frozen_until > self.clock.now for process in self.processes.values()
        )

    def _end(self, name: str, process: Process, silent_s: float | None) -> None:
        process.died()
        process.role.alive = False
        self.network.role_died(process.role, silent_s)
        self.stopping.discard(name)
        del self.processes[name]
        self.graveyard.append(process)

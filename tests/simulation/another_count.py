"""A change of the number of shards, in some seeds: all workers stop, ``python -m rtprov.shards``
runs, and the workers start again.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import connectProtocol

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.errors import BrokerError, BrokerUnavailable, ConfigurationError
from rtprov.messaging.resharding import Resharding
from tests.simulation.clock import Role
from tests.simulation.world import Service

if TYPE_CHECKING:
    from typing import Any

    from twisted.python.failure import Failure

    from tests.simulation.world import World

HOW_OFTEN = 0.12  # Fraction of the seeds.
COUNTS = (1, 2, 3, 5)
OPERATOR = "operator"
CONNECT_DEADLINE_S = 10.0
LOOK_S = 1.0


@define(eq=False)
class _Command:
    """One run of ``python -m rtprov.shards``."""

    role: Role

    def stop(self) -> Deferred[Any]:
        return succeed(None)

    def died(self) -> None: ...


@define(eq=False)
class AnotherCount:
    """Changes the number of shards once, at a random time before `until`. It has its own random
    numbers.

    The command may be killed or disconnected halfway; it is run again until it succeeds. Some roles
    are started without ``--shards``, and the front ends among them keep running. Roles that are
    given a number are restarted after the change.
    """

    world: World
    rng: random.Random
    until: float
    _count: int = field(init=False)
    _runs: int = 0

    def __attrs_post_init__(self) -> None:
        world, rng = self.world, self.rng
        if rng.random() >= HOW_OFTEN:
            return
        roles = [name for name in world.names if name not in ("broker", "a")]
        world.without_option = {name: rng.random() < 0.7 for name in roles}
        self._count = rng.choice([count for count in COUNTS if count != world.shards])
        world.clock.call_later(None, rng.random() * self.until * 0.8, self._begin)

    def _begin(self) -> None:
        """Stop or kill each worker."""
        world = self.world
        world.held = {name for name in world.names if name.startswith("w")}
        for name in sorted(world.held):
            if self.rng.random() < 0.5:
                world.stop(name)
            else:
                world.kill(name)
        self._await_end()

    def _await_end(self) -> None:
        if self.world.held & self.world.processes.keys():
            self.world.clock.call_later(None, LOOK_S, self._await_end)
        else:
            self._run()

    def _run(self) -> None:
        """Run the command."""
        world = self.world
        self._runs += 1
        world.trace.note(f"the number of shards is to be {self._count}, run {self._runs}")
        role = Role(OPERATOR, world.clock)
        world.processes[OPERATOR] = _Command(role)
        change = Deferred.fromCoroutine(self._change(role, world.rng(f"{OPERATOR} {self._runs}")))
        change.addCallbacks(lambda _: self._done(role), lambda reason: self._failed(role, reason))
        if world.clock.now < self.until and self.rng.random() < 0.6:
            world.clock.call_later(None, self.rng.random() ** 2 * 1.5, self._disturb, role)

    async def _change(self, role: Role, rng: random.Random) -> None:
        connection = AmqpConnection(url=self.world.url, clock=role.clock)
        endpoint: Any = self.world.network.endpoint(role, "broker")
        try:
            try:
                await connectProtocol(endpoint, connection).addTimeout(
                    CONNECT_DEADLINE_S, role.clock
                )
            except Exception as error:
                raise BrokerUnavailable(str(error)) from error
            await connection.handshake()
            publisher = Publisher(clock=role.clock)
            await publisher.attach(connection)
            change = Resharding(
                connection=connection,
                publisher=publisher,
                new_id=lambda: f"{rng.getrandbits(128):032x}",
                say=lambda text: self.world.trace.note(f"{OPERATOR}: {text}"),
            )
            await change.run(self._count)
        finally:
            if connection.transport is not None:
                await connection.close()

    def _disturb(self, role: Role) -> None:
        """Kill the command, or cut its connection."""
        process = self.world.processes.get(OPERATOR)
        if process is None or process.role is not role:
            return
        if self.rng.random() < 0.5:
            self.world.kill(OPERATOR)
            self._again()
            return
        for link in self.world.network.open_links():
            if link.client_role is role:
                self.world.trace.note(f"{link} is cut")
                link.break_off()

    def _again(self) -> None:
        self.world.clock.call_later(
            None, self.rng.choice([0.1, 5.0]) * self.rng.random(), self._run
        )

    def _failed(self, role: Role, reason: Failure) -> None:
        if not role.alive:
            return
        self.world.trace.note(f"{OPERATOR}: {reason.getErrorMessage()}")
        self.world.kill(OPERATOR)
        early = (
            reason.check(ConfigurationError)
            and "A worker is still consuming" in reason.getErrorMessage()
        )
        self.world.checks.expect(
            bool(early or reason.check(BrokerError)),
            f"The number was not changed: {reason.getTraceback()}",
        )
        self._again()

    def _done(self, role: Role) -> None:
        """Restart all roles that were given the old number."""
        if not role.alive:
            return
        world = self.world
        world.kill(OPERATOR)
        world.shards = self._count
        world.changed = True
        workers, world.held = world.held, set()
        for name in world.frontends:
            process = world.processes.get(name)
            if isinstance(process, Service) and process.given is not None:
                world.kill(name)
                self.world.clock.call_later(None, self.rng.random() * 5.0, world.start, name)
        for name in sorted(workers):
            self.world.clock.call_later(None, self.rng.random() * 5.0, world.start, name)

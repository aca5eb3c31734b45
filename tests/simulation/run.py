"""One run: a seed, from start to end.

`simulate(1234)` runs seed 1234. The `broken` of its result is None if all invariants held.
"""

from __future__ import annotations

import gc
import random
import sys
from contextlib import suppress
from typing import Any, cast

from attrs import define
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher

from tests.simulation.another_count import AnotherCount
from tests.simulation.backups import Backups
from tests.simulation.clients import Client
from tests.simulation.clock import Role
from tests.simulation.faults import Faults
from tests.simulation.knobs import turned
from tests.simulation.operators import Operator
from tests.simulation.orders import Key, Order
from tests.simulation.rest import at_rest, connected, jobs, no_marker, stop_looking
from tests.simulation.world import Setup, World

MAX_EVENTS = 200_000
CALM_S = 7200.0  # everything must be done by then
LONGEST_CALL_S = 900.0  # includes the pause after it, and a suspension of its worker
KEYLESS = (" is missing: ", "the latest tasks are sealed with key", "POSTs are refused: ")
RESTORED = ("the broker has lost this journal", "the broker has lost its order")
REST_S = 200.0  # the longest timer that a stopped process may leave to an idle connection


@define(eq=False)
class Result:
    """The result of a seed. `broken` describes the violation, if there was one."""

    seed: int
    broken: str | None
    digest: str
    events: int
    seconds: float
    accepted: int

    def report(self) -> str:
        """Return the violation, and the command that shows it again."""
        return (
            f"seed {self.seed}: {self.broken}\n\nTo see it again:  python -m tests.simulation"
            f" --seed {self.seed}\n"
        )


def simulate(seed: int, *, live: bool = False) -> Result:
    """Run one seed. With `live`, its trace is printed as it goes."""
    collecting = gc.isenabled()
    # Discarded Deferreds log their failures when they are collected. The time of that must not
    # depend on what ran before.
    gc.disable()
    run = _Run(seed, live)
    observer = cast("ILogObserver", run.on_log)
    globalLogPublisher.addObserver(observer)
    hook, sys.unraisablehook = sys.unraisablehook, run.on_unraisable
    try:
        with turned(run.world.setup.knobs, run.world.clock, run.world.rng("knobs")):
            run.run()
        gc.collect(0)  # log the failures of Deferreds that were never handled
        return run.end()
    finally:
        gc.collect(1)
        sys.unraisablehook = hook
        globalLogPublisher.removeObserver(observer)
        if collecting:
            gc.enable()


class _Run:
    def __init__(self, seed: int, live: bool) -> None:
        rng = random.Random(f"{seed}/setup")
        self.world = World(seed, Setup.draw(rng))
        self.world.trace.live = live
        self.checks = self.world.checks
        self._burying = False
        self._undone = 0
        self._fault_s = rng.choice([15.0, 40.0, 100.0])
        self.world.trace.note(f"seed {seed}: {self.world.setup}")
        self.clients = self._make_clients(rng)
        self.faults = Faults(self.world, self.world.rng("faults"), self._fault_s)
        Operator(self.world, self.world.rng("operator"), self._fault_s)
        AnotherCount(self.world, self.world.rng("another count"), self._fault_s)
        Backups(self.world, self.world.rng("backups"), self._fault_s)
        self.world.trace.note(
            f"faults: {', '.join(kind.__name__ for kind in self.faults.kinds)} each"
            f" {self.faults.mean_pause_s} s"
        )

    def _make_clients(self, rng: random.Random) -> list[Client]:
        world = self.world
        devices = [f"DEVICE{number:03}" for number in range(rng.choice([1, 1, 2, 3]))]
        keyed, fickle = rng.choice([0.0, 0.3, 0.9]), rng.choice([0.0, 0.3, 0.9])
        clients = []
        for number in range(rng.randint(1, 4)):
            orders = [
                self._make_order(rng, rng.choice(devices), keyed) for _ in range(rng.randint(1, 5))
            ]
            name = f"c{number + 1}"
            frontend = f"b{number % world.setup.frontends + 1}"
            clients.append(
                self._client(name, frontend, orders, wild=rng.random() < 0.2, fickle=fickle)
            )
        return clients

    def _make_order(self, rng: random.Random, device: str, keyed: float) -> Order:
        """Return a new order, an order with a key that another client has too, or another body with
        such a key.
        """
        if rng.random() >= keyed:
            return self.world.new_order(device)
        known = [order for order in self.world.orders if order.key is not None]
        if not known or rng.random() < 0.5:
            return self.world.new_order(device, Key(f"key-{len(self.world.orders)}"))
        like = rng.choice(known)
        return like if rng.random() < 0.6 else self.world.new_order(like.device, like.key)

    def _client(
        self, name: str, frontend: str, orders: list[Order], *, wild: bool, fickle: float
    ) -> Client:
        world = self.world
        return Client(
            role=Role(name, world.clock),
            rng=world.rng(name),
            network=world.network,
            checks=self.checks,
            trace=world.trace,
            frontend=frontend,
            frontends=world.frontends,
            orders=orders,
            wild=wild,
            fickle=fickle,
            until=self._fault_s if orders else 0.0,
            new_order=world.new_order,
        )

    def on_log(self, event: LogEvent) -> None:
        """Treat a logged error as a violation, unless it is about a full disk, a missing key, a
        restored backup, or a permitted dead letter.
        """
        level = event.get("log_level")
        if self._burying or level is None:
            return
        bad = "log_failure" in event or level >= LogLevel.error
        if not bad and not self.world.trace.live:
            return
        text = formatEvent(event)
        self.world.trace.log(text)
        full = self.world.disk.full and "cannot be written" in text
        given_up = self.checks.dead_letters and "dead-lettered" in text
        keyless = self.world.key_files and any(words in text for words in KEYLESS)
        restored = self.checks.restores.count and any(words in text for words in RESTORED)
        if bad and not full and not given_up and not keyless and not restored:
            self.checks.on_log(text, event)

    def on_unraisable(self, what: Any) -> None:
        """An exception was raised where it could not propagate, such as in a finaliser."""
        self.checks.expect(self._burying, f"Lost: {what.exc_value!r} in {what.object!r}")

    # The phases of a run.

    def run(self) -> None:
        for name in self.world.names:
            self.world.start(name)
        for client in self.clients:
            self._undone += 1
            client.run().addCallbacks(self._done, self._failed)
        self._advance(lambda: self.world.clock.now >= self._fault_s, self._fault_s)
        self.faults.end()
        self._advance(lambda: not self._undone, CALM_S)
        self.checks.expect(not self._undone, "Some client has not got its final statuses")
        self._settle()
        self._ask_again()
        self._stop()
        self.checks.at_end()

    def _done(self, _: object) -> None:
        self._undone -= 1

    def _failed(self, reason: Any) -> None:
        self._undone -= 1
        self.checks.expect(False, f"A client failed: {reason.getTraceback()}")

    def _advance(self, done: Any, seconds: float) -> None:
        """Run events until `done` returns true, for at most so many seconds."""
        clock, checks, faults, trace = self.world.clock, self.checks, self.faults, self.world.trace
        end, lines = clock.now + seconds, len(trace.lines)
        alarm = clock.call_later(None, seconds, lambda: None)
        while checks.broken is None and clock.now < end and not done() and clock.step():
            faults.tick()
            if len(trace.lines) != lines:
                lines = len(trace.lines)
                faults.on_important_event()
            checks.expect(clock.events < MAX_EVENTS, "It never comes to rest")
        if alarm.active():
            alarm.cancel()

    def _settle(self) -> None:
        """Wait until tasks that no client knows of have ended, and calls whose task another worker
        has finished.
        """
        self._advance(
            lambda: not self.world.held and self.world.processes.keys() >= set(self.world.names),
            CALM_S,
        )
        self.checks.expect(not self.world.held, "The number of shards is not changed")
        self._advance(
            lambda: all(
                task.finished is not None or not task.requested
                for task in self.checks.tasks.values()
            ),
            CALM_S,
        )
        self._advance(lambda: not (jobs(self.world) or self.world.frozen), LONGEST_CALL_S)
        self._advance(lambda: connected(self.world), CALM_S)
        self.checks.expect(connected(self.world), "Some role does not connect to the broker")

    def _ask_again(self) -> None:
        """Repeat the requests for all orders at every front end. All must give the same answers."""
        world = self.world
        had = [
            order
            for order in world.orders
            if order.task_id is not None
            or (order.key is not None and order.key.task_id is not None)
        ]
        for frontend in world.frontends:
            client = self._client("late", frontend, [], wild=False, fickle=0.0)
            for order in had:
                self._undone += 1
                client.see(order).addCallbacks(self._done, self._failed)
        self._advance(lambda: not self._undone, 60.0)

    def _stop(self) -> None:
        world = self.world
        self._advance(lambda: False, 3.0)  # messages in flight arrive
        # Roles that were restarted meanwhile connect.
        self._advance(lambda: connected(self.world), CALM_S)
        stop_looking(world)
        self._advance(lambda: False, 3.0)
        self._advance(lambda: no_marker(world), 3.0)
        if self.checks.broken is None:
            at_rest(world, running=True)
        world.closing = True
        for name in [name for name in world.names if name != "broker"]:
            world.stop(name)
        self._advance(lambda: set(world.processes) == {"broker"}, REST_S)
        world.stop("broker")
        self._advance(lambda: not world.processes, REST_S)
        self._advance(lambda: False, REST_S)
        if self.checks.broken is None:
            at_rest(world, running=False)

    def end(self) -> Result:
        """Finish the protocols of dead roles, so that Deferreds that never fired do not outlive the
        run.
        """
        world = self.world
        result = Result(
            world.seed,
            self.checks.broken,
            world.trace.digest(),
            world.clock.events,
            world.clock.now,
            len(self.checks.accepted),
        )
        self._burying = True
        for link in world.network.every_link:
            for end in link.ends:
                with suppress(Exception):
                    end.bury()
        world.disk.destroy()
        return result

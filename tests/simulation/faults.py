"""The faults: what goes wrong, and when. Each seed has its own selection of kinds of faults, and
its own rate.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import define, field

from tests.simulation.links import Link
from tests.simulation.world import World

HOT_EVENTS = 12
LONGEST_STEP_S = 600.0
NOTICED_WITHIN_S = 5.0
_WEIGHTS = {"b": 2.0, "a": 1.0, "w": 3.0}  # by role: how likely it is to be chosen
KEYS = ("plain", "other")  # the first one is what all roles start with
MOODS = ("normal", "busy", "down", "hanging", "late", "broken")


@define(eq=False)
class Faults:
    """Causes faults at random times until `until`, and sometimes right after an important event;
    see `on_important_event`.
    """

    world: World
    rng: random.Random
    until: float
    kinds: list[Callable[[], None]] = field(init=False)
    mean_pause_s: float = field(init=False)
    hot: float = field(init=False)
    _countdown: int = -1

    def __attrs_post_init__(self) -> None:
        every = [
            self.cut,
            self.mute,
            self.block,
            self.kill,
            self.power_loss,
            self.stop,
            self.freeze,
            self.clock_step,
            self.disk_full,
            self.disk_slow,
            self.a_misbehaves,
            self.a_killed,
            self.bounce,
            self.key_file,
        ]
        self.kinds = self.rng.sample(every, self.rng.randint(1, 4))
        self.mean_pause_s = self.rng.choice([3.0, 10.0, 30.0])
        self.hot = self.rng.choice([0.0, 0.02, 0.1])
        self._later(self.rng.random() * self.mean_pause_s)

    def _later(self, seconds: float) -> None:
        if self.world.clock.now + seconds < self.until:
            self.world.clock.call_later(None, seconds, self._strike_on)

    def _strike_on(self) -> None:
        self.strike()
        self._later(self.rng.expovariate(1.0 / self.mean_pause_s))

    def strike(self) -> None:
        """Cause one fault."""
        self.rng.choice(self.kinds)()

    def on_important_event(self) -> None:
        """Note an important event. A fault may follow within the next few events."""
        if (
            self.hot
            and self._countdown < 0
            and self.world.clock.now < self.until
            and self.rng.random() < self.hot
        ):
            self._countdown = self.rng.randrange(HOT_EVENTS)

    def tick(self) -> None:
        """Count an event, and cause the fault that is due."""
        if self._countdown >= 0:
            self._countdown -= 1
            if self._countdown < 0 and self.world.clock.now < self.until:
                self.strike()

    def end(self) -> None:
        """End all faults: start all roles, heal all connections, and restore disk, A and
        key files.
        """
        world = self.world
        world.trace.note("the calm begins")
        world.network.heal()
        world.disk.full, world.disk.slow_s = False, 0.0
        world.a.mood = "calm"
        if world.key_files:
            for name in self._holders():
                world.replace_key_file(name, KEYS, 0.0)
        for name in world.names:
            world.start(name)

    # The network.

    def _link(self) -> Link | None:
        links = self.world.network.open_links()
        return self.rng.choice(links) if links else None

    def cut(self) -> None:
        """Break a connection, after any byte."""
        link = self._link()
        if link is not None:
            self.world.trace.note(f"{link} is cut")
            link.break_off()

    def bounce(self) -> None:
        """Break all connections to the broker."""
        self.world.trace.note("all links to the broker are cut")
        for link in self.world.network.open_links():
            if link.name == "broker":
                link.break_off()

    def mute(self) -> None:
        """Make a connection half-open in one or both directions, for up to minutes."""
        link = self._link()
        if link is not None:
            ends = self.rng.choice([[link.client], [link.server], [link.client, link.server]])
            seconds = self.rng.choice([2.0, 15.0, 40.0, 200.0]) * self.rng.random()
            self.world.trace.note(
                f"{link} is mute for {seconds:.1f} s, {' and '.join(end.role.name for end in ends)}"
                " unheard"
            )
            link.mute(ends, seconds)

    def block(self) -> None:
        """Block a role's way to another role's server."""
        client = self.rng.choice(
            [name for name in self.world.names if name[0] in "w" or name in ("b1", "b2")]
        )
        name = self.rng.choice(["broker", "a"]) if client.startswith("w") else "broker"
        seconds = self.rng.choice([2.0, 15.0, 60.0]) * self.rng.random()
        self.world.trace.note(f"{client} cannot reach {name} for {seconds:.1f} s")
        self.world.network.block(client, name, seconds)

    # The roles.

    def _victim(self) -> str:
        names = self.world.names
        return self.rng.choices(names, [_WEIGHTS[name[0]] for name in names])[0]

    def _again(self, name: str) -> None:
        seconds = self.rng.choice([0.0, 0.05, 3.0, 40.0]) * self.rng.random()
        self.world.clock.call_later(None, seconds, self.world.start, name)

    def kill(self) -> None:
        """Kill a role; it starts again after a while."""
        name = self._victim()
        self.world.kill(name)
        self._again(name)

    def power_loss(self) -> None:
        """Cut the power of a role's machine: its peers are not notified."""
        name = self._victim()
        self.world.kill(name, silent_s=self.rng.choice([3.0, 60.0]) * self.rng.random())
        self._again(name)

    def stop(self) -> None:
        """Stop a role with SIGTERM, and start it again."""
        name = self._victim()
        self.world.stop(name, lambda: self._again(name))

    def freeze(self) -> None:
        """Suspend a role's process or machine for up to ten minutes."""
        self.world.freeze(
            self._victim(), self.rng.choice([1.0, 12.0, 60.0, 600.0]) * self.rng.random()
        )

    def clock_step(self) -> None:
        """Step the system clock of a role's machine by up to ten minutes."""
        self.world.set_clock(self._victim(), self.rng.uniform(-LONGEST_STEP_S, LONGEST_STEP_S))

    def _holders(self) -> list[str]:
        """Return all roles that have a key file."""
        return [name for name in self.world.names if name not in ("broker", "a")]

    def key_file(self) -> None:
        """Give a role another key file, perhaps a wrong one, and put the right one back after a
        while.
        """
        world = self.world
        name = self.rng.choice(self._holders())
        keys = self.rng.choice([KEYS[1:], KEYS[1:], KEYS[::-1], KEYS])
        seconds = self.rng.choice([3.0, 20.0, 60.0]) * self.rng.random()
        world.trace.note(f"the key file of {name} is {keys} for {seconds:.1f} s")
        world.replace_key_file(name, keys, self.rng.random() * NOTICED_WITHIN_S)
        world.clock.call_later(
            None, seconds, world.replace_key_file, name, KEYS, self.rng.random() * NOTICED_WITHIN_S
        )

    # The disk.

    def disk_full(self) -> None:
        """Make the broker's disk full for a while."""
        seconds = self.rng.choice([3.0, 60.0]) * self.rng.random()
        self.world.trace.note(f"the disk is full for {seconds:.1f} s")
        self.world.disk.full = True
        self.world.clock.call_later(None, seconds, setattr, self.world.disk, "full", False)

    def disk_slow(self) -> None:
        """Make each transaction take up to seconds."""
        seconds = self.rng.choice([3.0, 60.0]) * self.rng.random()
        self.world.trace.note(f"the disk is slow for {seconds:.1f} s")
        self.world.disk.slow_s = self.rng.choice([0.3, 2.0, 6.0])
        self.world.clock.call_later(None, seconds, setattr, self.world.disk, "slow_s", 0.0)

    # Service A.

    def a_misbehaves(self) -> None:
        """Change how A behaves from now on."""
        self.world.a.mood = self.rng.choice(MOODS)
        self.world.trace.note(f"A's mood is {self.world.a.mood}")

    def a_killed(self) -> None:
        """Kill A's process: connections to it are refused, or get no reaction."""
        silent_s = self.rng.choice([None, 30.0 * self.rng.random()])
        self.world.kill("a", silent_s)
        self.world.clock.call_later(None, 60.0 * self.rng.random(), self.world.start, "a")

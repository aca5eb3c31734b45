"""What goes wrong, and when. Each seed has its own choice of kinds of faults, and its own rate."""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import define, field

from tests.simulation.links import Link
from tests.simulation.world import World

HOT_EVENTS = 12
LONGEST_STEP_S = 600.0
NOTICED_WITHIN_S = 5.0
_WEIGHTS = {"b": 2.0, "a": 1.0, "w": 3.0}  # of roles, by how much there is to lose
KEYS = ("plain", "other")  # the first one is what all roles begin with
MOODS = ("normal", "busy", "down", "hanging", "late", "broken")


@define(eq=False)
class Faults:
    """Strikes at random times until `until`, and some of the time right behind something that
    matters: see `heed`.
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
            self.a_moody,
            self.a_away,
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
        """One fault."""
        self.rng.choice(self.kinds)()

    def heed(self) -> None:
        """Something that matters has happened: perhaps a fault is to strike within the next few
        events.
        """
        if (
            self.hot
            and self._countdown < 0
            and self.world.clock.now < self.until
            and self.rng.random() < self.hot
        ):
            self._countdown = self.rng.randrange(HOT_EVENTS)

    def tick(self) -> None:
        """An event has happened."""
        if self._countdown >= 0:
            self._countdown -= 1
            if self._countdown < 0 and self.world.clock.now < self.until:
                self.strike()

    def end(self) -> None:
        """Nothing goes wrong any longer: all that is down comes up, all that is silent is heard."""
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

    # Of the network.

    def _link(self) -> Link | None:
        links = self.world.network.open_links()
        return self.rng.choice(links) if links else None

    def cut(self) -> None:
        """A connection breaks, at any byte."""
        link = self._link()
        if link is not None:
            self.world.trace.note(f"{link} is cut")
            link.break_off()

    def bounce(self) -> None:
        """All connections of the broker break."""
        self.world.trace.note("all links to the broker are cut")
        for link in self.world.network.open_links():
            if link.name == "broker":
                link.break_off()

    def mute(self) -> None:
        """A connection is half-open, for up to minutes, in one direction or in both."""
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
        """A role cannot reach another one's server."""
        client = self.rng.choice(
            [name for name in self.world.names if name[0] in "w" or name in ("b1", "b2")]
        )
        name = self.rng.choice(["broker", "a"]) if client.startswith("w") else "broker"
        seconds = self.rng.choice([2.0, 15.0, 60.0]) * self.rng.random()
        self.world.trace.note(f"{client} cannot reach {name} for {seconds:.1f} s")
        self.world.network.block(client, name, seconds)

    # Of the roles.

    def _victim(self) -> str:
        names = self.world.names
        return self.rng.choices(names, [_WEIGHTS[name[0]] for name in names])[0]

    def _again(self, name: str) -> None:
        seconds = self.rng.choice([0.0, 0.05, 3.0, 40.0]) * self.rng.random()
        self.world.clock.call_later(None, seconds, self.world.start, name)

    def kill(self) -> None:
        """A role dies at once, and comes back after a while."""
        name = self._victim()
        self.world.kill(name)
        self._again(name)

    def power_loss(self) -> None:
        """A role's machine loses its power: its peers are told nothing."""
        name = self._victim()
        self.world.kill(name, silent_s=self.rng.choice([3.0, 60.0]) * self.rng.random())
        self._again(name)

    def stop(self) -> None:
        """A role is stopped in the orderly way, and started again."""
        name = self._victim()
        self.world.stop(name, lambda: self._again(name))

    def freeze(self) -> None:
        """A role's process is stopped, or its machine paused, for up to ten minutes."""
        self.world.freeze(
            self._victim(), self.rng.choice([1.0, 12.0, 60.0, 600.0]) * self.rng.random()
        )

    def clock_step(self) -> None:
        """The system's clock of a role's machine is set, by up to ten minutes."""
        self.world.set_clock(self._victim(), self.rng.uniform(-LONGEST_STEP_S, LONGEST_STEP_S))

    def _holders(self) -> list[str]:
        """All roles that have a key file."""
        return [name for name in self.world.names if name not in ("broker", "a")]

    def key_file(self) -> None:
        """An operator gives a role another key file, the wrong one perhaps, and puts it right after
        a while.
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

    # Of the disk.

    def disk_full(self) -> None:
        """The broker's disk is full for a while."""
        seconds = self.rng.choice([3.0, 60.0]) * self.rng.random()
        self.world.trace.note(f"the disk is full for {seconds:.1f} s")
        self.world.disk.full = True
        self.world.clock.call_later(None, seconds, setattr, self.world.disk, "full", False)

    def disk_slow(self) -> None:
        """Each transaction takes up to seconds."""
        seconds = self.rng.choice([3.0, 60.0]) * self.rng.random()
        self.world.trace.note(f"the disk is slow for {seconds:.1f} s")
        self.world.disk.slow_s = self.rng.choice([0.3, 2.0, 6.0])
        self.world.clock.call_later(None, seconds, setattr, self.world.disk, "slow_s", 0.0)

    # Of A.

    def a_moody(self) -> None:
        """A behaves differently from now on."""
        self.world.a.mood = self.rng.choice(MOODS)
        self.world.trace.note(f"A's mood is {self.world.a.mood}")

    def a_away(self) -> None:
        """A's process is gone; whoever calls is refused, or hears nothing."""
        silent_s = self.rng.choice([None, 30.0 * self.rng.random()])
        self.world.kill("a", silent_s)
        self.world.clock.call_later(None, 60.0 * self.rng.random(), self.world.start, "a")

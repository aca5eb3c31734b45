"""A backup of the broker's disk, in some seeds: taken while the broker runs, and restored later."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attrs import define

if TYPE_CHECKING:
    import sqlite3

    from tests.simulation.world import World

HOW_OFTEN = 0.12  # Fraction of the seeds.
TRY_AGAIN_S = 1.0


@define(eq=False)
class Backups:
    """Takes one backup at a random time before `until`, as a snapshot of the disk, and restores it
    later. It has its own random numbers.

    During the restore the workers keep running, or are stopped before and started after it, as
    docs/operations.md says.
    """

    world: World
    rng: random.Random
    until: float
    _backup: sqlite3.Connection | None = None

    def __attrs_post_init__(self) -> None:
        if self.rng.random() < HOW_OFTEN and not self.world.without_option:
            self.world.clock.call_later(None, self.rng.random() * self.until * 0.8, self._save)

    def _save(self) -> None:
        if "broker" not in self.world.processes:
            self.world.clock.call_later(None, TRY_AGAIN_S, self._save)
            return
        self.world.trace.note("a backup is made")
        self._backup = self.world.disk.save()
        self.world.checks.on_backup()
        self.world.clock.call_later(
            None, self.rng.random() * (self.until - self.world.clock.now), self._begin
        )

    def _begin(self) -> None:
        stopped = self.rng.random() < 0.4
        for name in self.world.names:
            if name.startswith("w") and stopped:
                self.world.kill(name)
                self._again(name)
        if self.rng.random() < 0.5 and "broker" in self.world.processes:
            self.world.stop("broker", self._restore)
        else:
            self.world.kill("broker")
            self._restore()

    def _restore(self) -> None:
        assert self._backup is not None
        self.world.trace.note("the backup is restored")
        self.world.disk.restore(self._backup)
        self.world.checks.on_restored()
        self._again("broker")

    def _again(self, name: str) -> None:
        seconds = self.rng.choice([0.0, 1.0, 40.0]) * self.rng.random()
        self.world.clock.call_later(None, seconds, self.world.start, name)

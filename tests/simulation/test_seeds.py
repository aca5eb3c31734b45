"""The regular run of the simulation, and its determinism."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.simulation.run import simulate
from tests.simulation.seeds import simulate_many
from tests.support.scale import FULL, QUICK, slow

SEEDS = 2000 if FULL else 10 if QUICK else 60
AGAIN = 2 if QUICK else 3  # number of seeds that are run twice
ROOT = Path(__file__).resolve().parent.parent.parent


class Seeds(SynchronousTestCase):
    def test_many(self) -> None:
        """Every task of every seed ends, and no invariant is violated."""
        broken, accepted = [], 0
        for result in simulate_many(range(SEEDS)):
            accepted += result.accepted
            if result.broken:
                broken.append(result.report())
        self.assertEqual(broken[:3], [], f"{len(broken)} of {SEEDS} seeds")
        self.assertGreater(accepted, 2 * SEEDS)


class Determinism(SynchronousTestCase):
    def test_same_process(self) -> None:
        """A seed has the same trace each time, regardless of what ran before it."""
        first = [simulate(seed).digest for seed in range(AGAIN)]
        self.assertEqual([simulate(seed).digest for seed in reversed(range(AGAIN))], first[::-1])
        self.assertEqual(len(set(first)), AGAIN)

    @slow
    def test_another_process(self) -> None:
        """A seed has the same trace in another process, with another hash seed."""
        script = (
            "from tests.simulation.run import simulate\n"
            f"print(*(simulate(seed).digest for seed in range({AGAIN})))"
        )
        digests = [simulate(seed).digest for seed in range(AGAIN)]
        for hash_seed in ("1", "2"):
            environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
            output = subprocess.run(
                [sys.executable, "-c", script],
                env=environment,
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            )
            self.assertEqual(output.stdout.split(), digests)

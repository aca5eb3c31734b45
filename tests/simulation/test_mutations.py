"""The simulation finds bugs: each mutation makes a seed fail."""

from __future__ import annotations

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.simulation.mutations import MUTATIONS
from tests.simulation.run import simulate
from tests.simulation.seeds import catch_all
from tests.support.scale import FULL, slow

WITHIN = 2000


class Mutations(SynchronousTestCase):
    def test_each_is_caught(self) -> None:
        """The first 2,000 seeds find each mutation; most are found by the first few."""
        if not FULL:
            raise SkipTest("takes half an hour: .ci/full runs it, with RTPROV_FULL=1")
        caught = catch_all(MUTATIONS, WITHIN)
        self.assertEqual([name for name, result in caught.items() if result is None], [])

    @slow
    def test_report(self) -> None:
        """The report of a violation names task and device, and has the last events and the command
        that shows it again.
        """
        with MUTATIONS["every answer is a success"].switched_on():
            result = next(result for result in map(simulate, range(100)) if result.broken)
        report = result.report()
        self.assertRegex(
            report,
            rf"seed {result.seed}: Completed, but A never had a success \(task [0-9a-f]{{32}},"
            r" device DEVICE\d+\)\n",
        )
        self.assertRegex(report, r"A: answers call \d+: \w+\n")
        self.assertIn(f"python -m tests.simulation --seed {result.seed}\n", report)
        self.assertIsNone(simulate(result.seed).broken)

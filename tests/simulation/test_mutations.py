"""That the simulation finds bugs: each mutation is caught."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.simulation.mutations import MUTATIONS
from tests.simulation.seeds import catch_all

WITHIN = 500


class Mutations(SynchronousTestCase):
    def test_each_is_caught(self) -> None:
        """Each bug that is put in on purpose is found within 500 seeds."""
        caught = catch_all(MUTATIONS, WITHIN)
        self.assertEqual([name for name, result in caught.items() if result is None], [])

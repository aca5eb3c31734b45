"""Pauses between attempts."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from rtprov.backoff import backoff_s, jittered_backoff_s


class Backoff(SynchronousTestCase):
    def test_doubles_up_to_the_limit(self) -> None:
        """The pause begins with the first one, doubles, and stays at the limit."""
        pauses = [backoff_s(failures, first_s=0.5, longest_s=3.0) for failures in range(1, 6)]
        self.assertEqual(pauses, [0.5, 1.0, 2.0, 3.0, 3.0])

    def test_any_number_of_failures(self) -> None:
        """A count of failures that grows without end raises no error."""
        self.assertEqual(backoff_s(1_000_000, first_s=0.1, longest_s=5.0), 5.0)

    def test_jitter(self) -> None:
        """The jittered pause is between a half and the whole of the plain one."""
        rng = random.Random(1)
        for failures, longest in ((1, 1.0), (3, 4.0), (10, 60.0)):
            pauses = [
                jittered_backoff_s(failures, rng, first_s=1.0, longest_s=60.0) for _ in range(200)
            ]
            self.assertGreaterEqual(min(pauses), longest / 2)
            self.assertLess(max(pauses), longest)
            self.assertLess(min(pauses), longest * 0.55)
            self.assertGreater(max(pauses), longest * 0.95)

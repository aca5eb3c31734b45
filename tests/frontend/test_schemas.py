"""The documents that the front end sends."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtprov.frontend.schemas import time_text


class Times(SynchronousTestCase):
    def test_text(self) -> None:
        """A time is in UTC, with milliseconds."""
        self.assertEqual(time_text(1_800_000_000.25), "2027-01-15T08:00:00.250Z")
        self.assertEqual(time_text(0.0), "1970-01-01T00:00:00.000Z")
        self.assertIsNone(time_text(None))

    def test_no_date(self) -> None:
        """A number that is no date, from another program's message, is shown as not known."""
        for at in (1.8e12, -1e11, 1e300, -1e300, float("inf"), float("-inf"), float("nan")):
            self.assertIsNone(time_text(at), at)

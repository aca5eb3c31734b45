"""``rtprov summary``, and how it is shown."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from rtprov.cli.summary_view import spark, summary_view
from tests.support.cli_case import VerbTestCase
from tests.support.fake_front_end import SUMMARY


class Summary(VerbTestCase):
    def test_table(self) -> None:
        """People see the numbers, when the backlog is done, and the state of all parts."""
        shown = self.verb("summary")
        for words in (
            "WAITING",
            "812",
            "6 min",
            "25 min to 30 min",
            "1740",
            "well, a call takes 20 s",
            "shard 0of1",
            "worker w1, 1 standby, 500 calls at once",
        ):
            self.assertIn(words, shown)

    def test_formats(self) -> None:
        """JSON is the summary; CSV has a line for each value, with a dotted name."""
        self.assertEqual(json.loads(self.verb("summary", "-o", "json")), SUMMARY)
        self.assertEqual(json.loads(self.verb("summary", "-o", "jsonl")), SUMMARY)
        lines = self.verb("summary", "-o", "csv").splitlines()
        self.assertEqual(lines[:2], ["name,value", "tasks.waiting,812"])
        self.assertIn("ended.lastHour.failed,12", lines)


class View(SynchronousTestCase):
    def shown(self, **changes: Any) -> str:
        out = io.StringIO()
        view = summary_view({**SUMMARY, **changes}, 1_800_000_000.0)
        Console(file=out, width=80).print(view)
        self.assertLessEqual(max(map(len, out.getvalue().splitlines())), 80)
        return out.getvalue()

    def test_trouble(self) -> None:
        """An A in trouble, a lost broker, a shard without worker and parked letters are named."""
        shown = self.shown(
            equipment={
                "state": "open",
                "since": "2027-01-15T07:58:00.000Z",
                "lastError": "TLS\x1b",
            },
            broker={"connected": False, "blocked": False},
            shards=[{"shard": "0of1", "backlog": 9, "active": None, "standbys": []}],
            parked=3,
            etaSeconds=None,
            etaReason="equipment",
            incomplete=["1of2"],
        )
        for words in (
            "in trouble for 2 min: TLS\ufffd",
            "not connected",
            "9 tasks, no worker, 0 standbys",
            "3 letters",
            "unknown: equipment",
            "no live worker for ['1of2']",
        ):
            self.assertIn(words, shown)

    def test_nothing_known(self) -> None:
        """A summary with missing fields is shown, too."""
        out = io.StringIO()
        Console(file=out, width=80).print(summary_view({}, 0.0))
        self.assertIn("WAITING", out.getvalue())

    def test_spark(self) -> None:
        """The largest value has the full bar, zero has none, and a small one is visible."""
        self.assertEqual(spark([0, 1, 500, 1000]), " ▁▄█")
        self.assertEqual(spark([0, 0], ascii_only=True), "  ")
        self.assertEqual(spark([]), "")

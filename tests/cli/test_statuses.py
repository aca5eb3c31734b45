"""The exit statuses of verbs whose work an older command does."""

from __future__ import annotations

import os
import subprocess
import sys

import click
from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from rtprov.cli.main import BROKER, passed_on


def main(arguments: list[str]) -> None:
    """End with the status that is given, as such a command does."""
    raise SystemExit(int(arguments[0]))


class Statuses(SynchronousTestCase):
    def test_of_the_command_line(self) -> None:
        """A failed broker is 5, what cannot work is 2; other statuses stay."""
        group = click.Group()
        passed_on(group, "verb", __name__, "Ends.", statuses=BROKER)
        for ended, status in (("0", 0), ("1", 5), ("78", 2), ("2", 2), ("130", 130)):
            done = CliRunner().invoke(group, ["verb", ended])
            self.assertEqual(done.exit_code, status)

    def test_no_broker(self) -> None:
        """``backup`` and ``restore`` end with 5 if the broker is out of reach."""
        for verb in ("backup", "restore"):
            done = subprocess.run(
                [sys.executable, "-m", "rtprov.cli", verb, "a.backup"],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "RTPROV_BROKER": "amqp://guest:guest@127.0.0.1:1/"},
            )
            self.assertIn(f"rtprov {verb}: Could not connect to amqp://", done.stderr)
            self.assertEqual(done.returncode, 5)

"""The verbs of ``rtprov``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from rtprov import __version__
from rtprov.cli.main import main
from rtprov.security.development import FILES, SEAL_KEY
from rtprov.security.tokens import parse_tokens


class Verbs(SynchronousTestCase):
    def run_verb(self, *arguments: str, status: int = 0) -> str:
        """Run a verb, which must end with `status`; return its output, errors included."""
        done = CliRunner().invoke(main, arguments)
        self.assertEqual(done.exit_code, status, done.output)
        return done.output

    def test_help(self) -> None:
        """It lists its verbs, and each passes ``--help`` on."""
        listed = self.run_verb("--help")
        for verb in ("certs", "health", "move", "run", "shards", "token"):
            self.assertIn(f"\n  {verb} ", listed)
        self.assertIn("--from-file", self.run_verb("move", "--help"))
        self.assertIn("--timeout", self.run_verb("health", "--help"))
        self.assertEqual(self.run_verb("--version"), f"rtprov {__version__}\n")

    def test_certificates(self) -> None:
        """``certs dev`` makes a set; a name that is no host name ends it with 2."""
        folder = Path(self.mktemp())
        self.run_verb("certs", "dev", str(folder), "--name", "b.example")
        self.assertEqual({file.name for file in folder.iterdir()}, {*FILES, SEAL_KEY})
        refused = self.run_verb("certs", "dev", str(folder), "--name", "-", status=2)
        self.assertIn("rtprov.certs: ", refused)

    def test_token(self) -> None:
        """``token new`` prints the line for the tokens file."""
        printed = self.run_verb("token", "new", "shift", "--role", "operate")
        (token,) = parse_tokens(printed.splitlines()[1])
        self.assertEqual(token.name, "shift")

    def test_health(self) -> None:
        """``health`` ends with 1 if the process does not answer."""
        self.assertIn("cannot reach", self.run_verb("health", "http://127.0.0.1:1/", status=1))

    def test_unknown_role(self) -> None:
        """``run`` names the roles that there are."""
        refused = self.run_verb("run", "everything", status=2)
        self.assertIn("'all-in-one', 'frontend', 'worker', 'broker', 'stub'", refused)


class Imports(SynchronousTestCase):
    def test_nothing_of_the_server(self) -> None:
        """The command line imports neither Twisted nor the server before a verb runs."""
        script = "import rtprov.cli.main, sys; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        modules = {name for name in done.stdout.split() if name.startswith(("rtprov", "twisted"))}
        self.assertEqual(modules, {"rtprov", "rtprov.cli", "rtprov.cli.main"})


class Run(SynchronousTestCase):
    def test_a_role(self) -> None:
        """``run`` starts the twistd command of a role, with its options."""
        command = [sys.executable, "-m", "rtprov.cli", "run", "worker", "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, f"rtprov {__version__}\n")

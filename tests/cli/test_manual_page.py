"""The man page and the completion scripts, made from the verbs."""

from __future__ import annotations

import shutil
import subprocess

import click
from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from rtprov.cli.main import main
from rtprov.cli.manual import page, verbs


class Manual(SynchronousTestCase):
    def test_all_verbs(self) -> None:
        """Each verb has a section with its options."""
        text = page()
        context = click.Context(main, info_name="rtprov")
        names = [name for name, _, _ in verbs(main, context)]
        for name in ("order", "top", "token add", "key promote", "certs dev", "backup"):
            self.assertIn(name, names)
        for name in names:
            self.assertIn(f".SS {name} ".replace("-", r"\-"), text)
        self.assertIn(r"\-\-equipment\-id", text)

    def test_groff(self) -> None:
        """groff finds nothing wrong with it."""
        if shutil.which("groff") is None:
            self.skipTest("groff is not installed")
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-rCHECKSTYLE=1"],
            input=page().encode(),
            capture_output=True,
            check=True,
        )
        self.assertEqual(done.stderr, b"")
        self.assertIn(b"rtprov", done.stdout)


class Help(SynchronousTestCase):
    def test_each_verb(self) -> None:
        """Each verb answers --help within 100 columns, and each option has a text."""
        context = click.Context(main, info_name="rtprov")
        for name, command, inner in verbs(main, context):
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    self.assertTrue(parameter.help, (name, parameter.name))
            if command.get_help_option(inner) is not None:
                done = CliRunner().invoke(main, [*name.split(), "--help"])
                self.assertEqual(done.exit_code, 0, done.output)
                self.assertLessEqual(max(map(len, done.output.splitlines())), 100)


class Completion(SynchronousTestCase):
    def complete(self, *words: str) -> list[str]:
        """Return what bash would offer for the last of these words."""
        environ = {
            "_RTPROV_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("rtprov", *words)),
            "COMP_CWORD": str(len(words)),
        }
        done = CliRunner().invoke(main, [], prog_name="rtprov", env=environ)
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    def test_words(self) -> None:
        """Verbs, verbs of groups, options and their values are completed."""
        self.assertEqual(self.complete("sum"), ["summary"])
        self.assertEqual(self.complete("token", "re"), ["revoke"])
        self.assertIn("--equipment-id", self.complete("tasks", "--e"))
        self.assertEqual(self.complete("tasks", "-o", "js"), ["json", "jsonl"])

    def test_scripts(self) -> None:
        """Each shell has a script."""
        for shell in ("bash", "zsh", "fish"):
            done = CliRunner().invoke(main, ["completion", shell])
            self.assertIn("_RTPROV_COMPLETE", done.stdout)

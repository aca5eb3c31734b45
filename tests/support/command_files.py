"""A test case with a folder of files that commands read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import ConfigurationError
from rtprov.tap.command_options import CommandOptions
from tests.support.command_lines import options_of


def parsed(command: str) -> CommandOptions:
    """Return the options of a command line without arguments that matter to a test. The test
    process keeps the settings of its garbage collector.
    """
    options = options_of(command)
    options.parseOptions(["--no-gc-tuning"])
    return options


class FilesTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.certs = Path(folder.name) / "certs"

    def assert_refused(self, text: str, call: Any, *arguments: Any, **named: Any) -> None:
        self.assertEqual(
            str(self.assertRaises(ConfigurationError, call, *arguments, **named)), text
        )

"""The table in operations.md of the files that are watched agrees with the options and services of
all commands.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import ConfigurationError
from rtprov.security.development import SEAL_KEY, ensure_seal_key, make_development_set
from rtprov.tap.broker_file import BrokerRoute
from rtprov.tap.command_options import Option
from rtprov.tap.option_values import path
from rtprov.tap.reloading import Renewal
from tests.support.command_lines import MODULES

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
WATCHED, ON_SIGHUP, RESTART = "watched", "on SIGHUP", "needs a restart"
FILES = {  # for each option with a single file, the file of the development set
    "certificate": "frontend.pem",
    "private-key": "frontend.key",
    "client-ca": "ca.pem",
    "ca": "ca.pem",
    "seal-keys": "seal.key",
    "tokens": "tokens",
    "scenario": "scenario.toml",
    "amqp-certificate": "worker.pem",
    "amqp-private-key": "worker.key",
}
PAIRS = {  # options that need each other
    "certificate": "private-key",
    "private-key": "certificate",
    "amqp-certificate": "amqp-private-key",
    "amqp-private-key": "amqp-certificate",
}


def table() -> dict[str, str]:
    """Return for each option of the table what happens when its file is replaced."""
    text = (
        OPERATIONS.read_text("utf-8")
        .partition("### Files that are replaced")[2]
        .partition("\nReplace a file")[0]
    )
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    return {option: row[2] for row in rows for option in re.findall(r"`--([a-z-]+)`", row[0])}


def file_options() -> dict[str, dict[str, Option]]:
    """Return for each command its options that name a file or a folder."""
    return {
        command: {
            each.name: each for each in namedAny(module).Options.options if each.parse is path
        }
        for command, module in MODULES.items()
    }


class ReplacedFiles(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        make_development_set(self.folder)
        ensure_seal_key(self.folder / SEAL_KEY)
        (self.folder / "tokens").write_text("")
        (self.folder / "scenario.toml").write_text("")
        self.patch(sys, "excepthook", sys.excepthook)
        self.patch(os, "environ", {})

    def watched(self, command: str, arguments: list[str]) -> set[Path]:
        """Return the files that a command with these options watches."""
        module = namedAny(MODULES[command])
        parsed = module.Options()
        parsed.parseOptions(["--certs", str(self.folder), *arguments])
        renewals = [
            each
            for each in cast("Any", IService(module.makeService(parsed)))
            if isinstance(each, Renewal)
        ]
        return {file for each in renewals for file in cast("Any", each)._files._watched}

    def test_every_option(self) -> None:
        """The table has exactly the options that name a file. Each has one of three entries, except
        for ``--certs``.
        """
        named = {name for of_command in file_options().values() for name in of_command}
        self.assertEqual(set(table()), named)
        for option, replaced in table().items():
            self.assertTrue(
                replaced in (WATCHED, ON_SIGHUP, RESTART) or option == "certs", (option, replaced)
            )

    def test_as_the_commands_do(self) -> None:
        """A command watches the file of an option if and only if the table says so."""
        for command, of_command in file_options().items():
            for option in set(of_command) & set(FILES):
                file = self.folder / f"{option}.file"
                file.write_bytes(
                    (self.folder / FILES[option]).read_bytes()
                    if (self.folder / FILES[option]).exists()
                    else b""
                )
                arguments = [f"--{option}", str(file)]
                if command in ("rtprov-frontend", "rtprov-worker"):
                    arguments += ["--broker", "amqps://localhost"]
                if option in PAIRS:
                    other = PAIRS[option]
                    arguments += [f"--{other}", str(self.folder / FILES[other])]
                self.assertEqual(
                    file in self.watched(command, arguments),
                    table()[option] == WATCHED,
                    (command, option),
                )

    def test_the_set(self) -> None:
        """In the folder with the development set each command watches its certificate and key, and
        the CA and sealing keys that it uses.
        """
        for command, names in (
            ("rtprov-frontend", {"frontend.pem", "frontend.key", "ca.pem", SEAL_KEY}),
            ("rtprov-worker", {"worker.pem", "worker.key", "ca.pem", SEAL_KEY}),
            ("rtprov-stub", {"stub.pem", "stub.key"}),
        ):
            arguments = [] if command == "rtprov-stub" else ["--broker", "amqps://localhost"]
            self.assertEqual({file.name for file in self.watched(command, arguments)}, names)

    def test_broker_in_a_file(self) -> None:
        """With ``--broker-file`` the CA is always watched, because the file may have an amqps URL
        later.
        """
        file = self.folder / "broker"
        file.write_text("amqp://localhost")
        for command in ("rtprov-frontend", "rtprov-worker"):
            names = {each.name for each in self.watched(command, ["--broker-file", str(file)])}
            self.assertTrue(names >= {"broker", "ca.pem"}, names)

    def test_no_ca(self) -> None:
        """If the file has an amqps URL and there is no CA, this is an error of one line, at the
        start and when the file changes.
        """
        file = self.folder / "broker"
        file.write_text("amqp://localhost")
        ca = self.folder / "none.pem"
        default = BrokerUrl.parse("amqp://localhost")

        def route_to_broker() -> BrokerRoute:
            return BrokerRoute(
                default, file, certs=self.folder, ca=ca, clock=cast("IReactorTime", Clock())
            )

        route = route_to_broker()
        followed: list[object] = []
        (_, renewal) = route.follow(lambda: cast("Any", Redirected(followed)))
        file.write_text("amqps://localhost")
        files = cast("Any", renewal)._files
        self.assertIn(
            "none.pem is missing", str(self.assertRaises(ConfigurationError, files.reload))
        )
        self.assertRaises(ConfigurationError, route_to_broker)
        self.assertEqual(followed, [])
        ca.write_bytes((self.folder / "ca.pem").read_bytes())
        files.reload()
        self.assertEqual([str(url) for url in followed], ["amqps://guest@localhost:5671/"])


class Redirected:
    """A connection that collects the URLs that it is redirected to."""

    def __init__(self, followed: list[object]) -> None:
        self._followed = followed

    def redirect(self, endpoint: object, url: object) -> None:
        self._followed.append(url)

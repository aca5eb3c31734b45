"""The options of the commands: names, defaults, sources of values, and a one-line error for each
mistake.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from rtprov import __version__
from rtprov.amqp.client.url import BrokerUrl
from rtprov.network.proxy_protocol import ProxiedEndpoint
from rtprov.security.tokens import Role
from rtprov.tap.command_options import CommandSettings
from rtprov.tap.option_values import BACKLOG, server_endpoint
from rtprov.tap.options import ALL_NAMES
from tests.support.command_lines import MODULES, options_of

BROKER = BrokerUrl.parse("amqp://guest:guest@127.0.0.1:5673/")
CERTS = Path("certs")
STUB = {"honour-timeout": False, "scenario": None}
SERVER = {"certs": CERTS, "certificate": None, "private-key": None, "client-ca": None}
WORKER: dict[str, Any] = {
    "concurrency": 500,
    "max-calls-per-second": None,
    "history": None,
    "history-days": 400,
    "retention": 86400.0,
    "patience": 600.0,
    "drain": 120.0,
    "batch-events": False,
}

EVERY: dict[str, Any] = {"no-gc-tuning": False}

# Each command's options with their defaults, as the contract has them. Paths are within the working
# directory.
DEFAULTS: dict[str, dict[str, Any]] = {
    "rtprov": {
        "listen": None,
        "health-listen": None,
        "log-format": "text",
        "client-ca": None,
        "tokens": None,
        "role-of": [],
        "open": False,
        "proxy-protocol": [],
        "port": 8443,
        "stub-port": 8444,
        "broker-port": 5673,
        "certs": CERTS,
        "equipment-url": None,
        "stub-delay": 60.0,
        "running-status": 200,
        "state": Path("state"),
        **WORKER,
        **STUB,
        **EVERY,
    },
    "rtprov-stub": {
        "listen": "tcp:8444:interface=127.0.0.1",
        "delay": 60.0,
        "health-listen": None,
        "log-format": "text",
        **STUB,
        **SERVER,
        **EVERY,
    },
    "rtprov-frontend": {
        "listen": "tcp:8443:interface=127.0.0.1",
        "health-listen": None,
        "log-format": "text",
        "broker": BROKER,
        "broker-file": None,
        "shards": None,
        "running-status": 200,
        "ca": None,
        "amqp-certificate": None,
        "amqp-private-key": None,
        "seal-keys": None,
        "tokens": None,
        "role-of": [],
        "open": False,
        "proxy-protocol": [],
        "rate": None,
        "max-connections": 10000,
        "max-connections-per-address": 2000,
        "request-timeout": 60.0,
        "stop-delay": 0.0,
        "max-unconfirmed": 10000,
        "try-command": None,
        **SERVER,
        **EVERY,
    },
    "rtprov-worker": {
        "broker": BROKER,
        "broker-file": None,
        "equipment-url": "https://localhost:8444",
        "shards": None,
        "shard": [],
        "certs": CERTS,
        "certificate": None,
        "private-key": None,
        "ca": None,
        "amqp-certificate": None,
        "amqp-private-key": None,
        "seal-keys": None,
        "health-listen": None,
        "log-format": "text",
        **WORKER,
        **EVERY,
    },
    "rtprov-broker": {
        "listen": "tcp:5673:interface=127.0.0.1",
        "health-listen": None,
        "log-format": "text",
        "state": Path("state"),
        "user": "guest",
        "password": "guest",
        "tls": False,
        "certs": CERTS,
        "certificate": None,
        "private-key": None,
        **EVERY,
    },
}

# For each option, what a user writes and what it means; then what is refused.
PATH = ("some/where", Path("some/where"))
PORT = ("0", 0)
DELAY = ("0.5", 0.5)
FLAGS = ("batch-events", "honour-timeout", "no-gc-tuning", "open", "tls")
PATHS = (
    "certs",
    "state",
    "history",
    "scenario",
    "certificate",
    "private-key",
    "client-ca",
    "ca",
    "seal-keys",
    "tokens",
    "broker-file",
    "amqp-certificate",
    "amqp-private-key",
)
COUNTS = ("max-connections", "max-connections-per-address", "max-unconfirmed")
RIGHT: dict[str, tuple[str, Any]] = {
    **dict.fromkeys(("port", "stub-port", "broker-port"), PORT),
    **dict.fromkeys(PATHS, PATH),
    **dict.fromkeys(COUNTS, ("7", 7)),
    **dict.fromkeys(FLAGS, ("yes", True)),
    **dict.fromkeys(("user", "password"), ("joe", "joe")),
    "try-command": ("curl …", "curl …"),
    "log-format": ("json", "json"),
    "rate": ("0.5", 0.5),
    "proxy-protocol": ("10.0.0.0/8", [ip_network("10.0.0.0/8")]),
    "role-of": ("host=7=operate", [("host=7", Role.OPERATE)]),
    "request-timeout": ("0.5", 0.5),
    **dict.fromkeys(("delay", "stub-delay", "stop-delay", "patience", "drain"), DELAY),
    "history-days": ("90", 90),
    "retention": ("3600", 3600.0),
    **dict.fromkeys(
        ("listen", "health-listen"), ("tcp:1234:interface=\\:\\:1", "tcp:1234:interface=\\:\\:1")
    ),
    "broker": (
        "amqps://joe:sesame@broker/v",
        BrokerUrl("broker", 5671, "joe", "sesame", "v", True),
    ),
    "equipment-url": ("https://a.example/base/", "https://a.example/base"),
    "shards": ("16", 16),
    "shard": ("0", [0]),
    "concurrency": ("30000", 30000),
    "max-calls-per-second": ("0.5", 0.5),
    "running-status": ("204", 204),
}
WRONG_PORTS = ("x", "-1", "65536", "1.5", "", "٣", "0000000000000070000")
WRONG_DELAYS = ("x", "-1", "nan", "inf", "1e9", "")
WRONG_ENDPOINTS = (
    "tcp:65536",
    "tcp:-1",
    "tcp6:port=70000",
    "tcp:interface=127.0.0.1:port=70000",
    "haproxy:tcp:70000",
    "haproxy:ssl:1",
    "haproxy:haproxy:tcp:1",
    *("haproxy", "haproxy:", "haproxy:8443", "haproxy:nothing:1"),
    "stdio:",
    "systemd:domain=INET6:name=https",  # no such socket was passed
)
WRONG: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("port", "stub-port", "broker-port"), WRONG_PORTS),
    **dict.fromkeys((*PATHS, "user", "password"), ("",)),
    **dict.fromkeys(COUNTS, ("0", "1000001", "many")),
    **dict.fromkeys(FLAGS, ("perhaps",)),
    "role-of": ("", ",", "host7=read,", "host7", "host7=", "=read", "host7=admin", "host7=READ"),
    "rate": ("0", "-1", "nan", "inf", "1e7", "5/s", ""),
    "proxy-protocol": (
        *("", " ", ",", "10.0.0.0/8,"),
        *("10.0.0.1/8", "proxy.example", "10.0.0.0/33", "haproxy"),
    ),
    "request-timeout": ("0", "3601", "long"),
    **dict.fromkeys(("delay", "stub-delay", "stop-delay", "patience", "drain"), WRONG_DELAYS),
    "history-days": ("0", "36501", "a year"),
    "retention": ("0", "518401", "a day"),
    **dict.fromkeys(
        ("listen", "health-listen"),
        (
            "",
            "8443",
            "tcp",
            "tcp:x",
            "tcp:1:frob=1",
            "ssl:8443",
            "tls:8443",
            "nothing:1",
            *WRONG_ENDPOINTS,
        ),
    ),
    "broker": (
        "",
        "broker",
        "http://joe:sesame@broker/",
        "amqp://joe:sesame@broker/v?x=1",
        "amqp://joe:sesame@broker:0/",
    ),
    "equipment-url": (
        "",
        "http://a",
        "a",
        "https://",
        "https://a:port",
        "https://a/?q",
        "https://a/#f",
        "https://joe:sesame@a",
        "https://[a",
        "https://a:0",
        "https://a:/",
        "https://a/?",
        "https://a/x y",
        "https://a/%ff",
        "https://a/\n",
    ),
    "try-command": ("curl\nready", "\x1b[2J", ""),
    "log-format": ("JSON", "xml", ""),
    "shards": ("0", "1025", "one"),
    "shard": ("", " ", ",", "0,", "1024", "-1", "a"),
    "concurrency": ("0", "30001", "many"),
    "max-calls-per-second": ("0", "-1", "nan", "inf", "1e7", "5/s", ""),
    "running-status": ("0", "201", "2O4", ""),
}


class OptionsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(sys, "excepthook", sys.excepthook)  # because parsing replaces it

    def parse(
        self, command: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Parse the arguments and return the values of all options."""
        self.patch(os, "environ", dict(environment or {}))
        options = options_of(command)
        options.parseOptions(arguments)
        return {name: plain(name, value) for name, value in options.items()}

    def refused(
        self, command: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> str:
        """Parse wrong arguments and return the one-line error."""
        error = self.assertRaises(
            SystemExit, self.parse, command, *arguments, environment=environment
        )
        line = error.code
        # Python writes the line to standard error and exits with status 1.
        assert isinstance(line, str)
        self.assertEqual(len(line.splitlines()), 1, line)
        self.assertTrue(line.startswith(f"{command}: "), line)
        self.assertNotIn("sesame", line)
        return line.removeprefix(f"{command}: ")

    def printed(self, command: str, argument: str) -> str:
        """Return what the command prints for an option such as ``--help``."""
        out = io.StringIO()
        self.patch(os, "environ", {})  # no COLUMNS: the width does not depend on the terminal
        self.patch(sys, "stdout", out)
        error = self.assertRaises(SystemExit, options_of(command).parseOptions, [argument])
        self.assertIn(error.code, (0, None))
        return out.getvalue()


def plain(name: str, value: Any) -> Any:
    """Return a value as the tables have it: an endpoint as its description, an absolute path
    relative to the working directory.
    """
    if isinstance(value, Path):
        return value.relative_to(Path.cwd())
    return value[0] if name.endswith("listen") and value is not None else value


def variable(option: str) -> str:
    return "RTPROV_" + option.upper().replace("-", "_")


class PerCommand(OptionsTestCase):
    """Variables for a single command."""

    def test_before_the_shared_one(self) -> None:
        """A variable with the name of a command takes precedence over the one for all commands, for
        that command only.
        """
        environment = {
            "RTPROV_CERTS": "all",
            "RTPROV_STUB_CERTS": "mine",
            "RTPROV_WORKER_CONCURRENCY": "7",
            "RTPROV_FRONTEND_OPEN": "yes",
        }
        certs = {
            command: self.parse(command, environment=environment)["certs"] for command in MODULES
        }
        self.assertEqual(certs.pop("rtprov-stub"), Path("mine"))
        self.assertEqual(set(certs.values()), {Path("all")})
        self.assertEqual(self.parse("rtprov-worker", environment=environment)["concurrency"], 7)
        self.assertEqual(self.parse("rtprov", environment=environment)["concurrency"], 500)
        self.assertEqual(
            [
                self.parse(each, environment=environment)["open"]
                for each in ("rtprov-frontend", "rtprov")
            ],
            [True, False],
        )

    def test_empty(self) -> None:
        """An empty variable counts as not set."""
        environment = {"RTPROV_CERTS": "all", "RTPROV_STUB_CERTS": ""}
        self.assertEqual(self.parse("rtprov-stub", environment=environment)["certs"], Path("all"))

    def test_named_in_an_error(self) -> None:
        """An error names the variable that was read."""
        line = self.refused(
            "rtprov-worker", environment={"RTPROV_WORKER_DRAIN": "soon", "RTPROV_DRAIN": "5"}
        )
        self.assertTrue(line.startswith("RTPROV_WORKER_DRAIN: "), line)

    def test_kubernetes(self) -> None:
        """Variables that Kubernetes sets for services with the names of commands are not read as
        options.
        """
        services = ("RTPROV", "RTPROV_STUB", "RTPROV_BROKER", "RTPROV_FRONTEND", "RTPROV_WORKER")
        environment = {f"{service}_PORT": "tcp://10.0.0.1:8443" for service in services}
        for command, defaults in DEFAULTS.items():
            self.assertEqual(self.parse(command, environment=environment), defaults)

    def test_all_names(self) -> None:
        """`ALL_NAMES` has the options of all commands."""
        self.assertEqual({name for defaults in DEFAULTS.values() for name in defaults}, ALL_NAMES)


class Settings(OptionsTestCase):
    def settings(self, command: str) -> CommandSettings:
        """Return the settings of a command with default options."""
        self.patch(os, "environ", {})
        options = options_of(command)
        options.parseOptions([])
        settings: CommandSettings = namedAny(f"{MODULES[command]}.Settings").from_options(options)
        return settings

    def test_fields(self) -> None:
        """The settings of a command have one field for each option, with its value."""
        for command, defaults in DEFAULTS.items():
            values = attrs.asdict(self.settings(command), recurse=False)
            found = {name.replace("_", "-"): value for name, value in values.items()}
            self.assertEqual(
                {name: plain(name, value) for name, value in found.items()}, defaults, command
            )

    def test_secrets(self) -> None:
        """The `repr` of the settings has no password."""
        for command in MODULES:
            self.assertNotIn("password", repr(self.settings(command)))


class Values(OptionsTestCase):
    def test_defaults(self) -> None:
        """Each command has exactly the options and defaults of the contract."""
        for command, defaults in DEFAULTS.items():
            self.assertEqual(self.parse(command), defaults, command)

    def test_command_line(self) -> None:
        """Each option can be set on the command line."""
        for command, defaults in DEFAULTS.items():
            for option in defaults:
                text, value = RIGHT[option]
                arguments = [f"--{option}"] if option in FLAGS else [f"--{option}", text]
                self.assertEqual(self.parse(command, *arguments), {**defaults, option: value})

    def test_environment(self) -> None:
        """Each option can be set by its variable. An empty variable counts as not set."""
        for command, defaults in DEFAULTS.items():
            for option in defaults:
                text, value = RIGHT[option]
                self.assertEqual(
                    self.parse(command, environment={variable(option): text}),
                    {**defaults, option: value},
                )
                self.assertEqual(self.parse(command, environment={variable(option): ""}), defaults)

    def test_command_line_wins(self) -> None:
        """The command line takes precedence over a variable, even if the variable is wrong."""
        for command, defaults in DEFAULTS.items():
            for option in defaults:
                text, value = RIGHT[option]
                arguments = [f"--{option}"] if option in FLAGS else [f"--{option}={text}"]
                for other in ("0", WRONG[option][0]):
                    values = self.parse(command, *arguments, environment={variable(option): other})
                    self.assertEqual(values[option], value, option)

    def test_several_shards(self) -> None:
        """``--shard`` can be repeated, and its variable holds a list."""
        arguments = ("--shards", "4", "--shard", "3", "--shard", "0")
        self.assertEqual(self.parse("rtprov-worker", *arguments)["shard"], [3, 0])
        environment = {"RTPROV_SHARDS": "4", "RTPROV_SHARD": " 1, 2"}
        self.assertEqual(self.parse("rtprov-worker", environment=environment)["shard"], [1, 2])
        self.assertEqual(
            self.parse("rtprov-worker", *arguments, environment=environment)["shard"], [3, 0]
        )

    def test_several_networks(self) -> None:
        """``--proxy-protocol`` can be repeated, and its variable holds a list. An error names the
        wrong network.
        """
        arguments = ("--proxy-protocol", "10.0.0.0/8", "--proxy-protocol", "::1")
        networks = [ip_network("10.0.0.0/8"), ip_network("::1")]
        for command in ("rtprov", "rtprov-frontend"):
            self.assertEqual(self.parse(command, *arguments)["proxy-protocol"], networks)
            environment = {"RTPROV_PROXY_PROTOCOL": "10.0.0.0/8, ::1"}
            self.assertEqual(
                self.parse(command, environment=environment)["proxy-protocol"], networks
            )
            environment = {"RTPROV_PROXY_PROTOCOL": "10.0.0.0/8,10.0.0.1/8"}
            line = self.refused(command, environment=environment)
            self.assertTrue(
                line.startswith("RTPROV_PROXY_PROTOCOL: '10.0.0.1/8' is not a network"), line
            )

    def test_endpoints(self) -> None:
        """TCP endpoints get a long backlog, unless the description sets one."""
        endpoint: Any
        for text, backlog in (
            ("tcp:1234", BACKLOG),
            ("tcp6:1234:interface=\\:\\:1", BACKLOG),
            ("tcp:1234:backlog=7", 7),
            ("unix:a", BACKLOG),
        ):
            described, endpoint = server_endpoint(text)
            self.assertEqual((described, endpoint._backlog), (text, backlog))
            described, endpoint = server_endpoint(f"haproxy:{text}")
            self.assertIsInstance(endpoint, ProxiedEndpoint)
            self.assertEqual((described, endpoint._endpoint._backlog), (f"haproxy:{text}", backlog))

    def test_flag_in_the_environment(self) -> None:
        """The variable of a flag accepts the usual words for yes and no."""
        for text, value in (
            ("1", True),
            ("TRUE", True),
            ("on", True),
            ("0", False),
            ("No", False),
            ("off", False),
        ):
            self.assertIs(
                self.parse("rtprov-stub", environment={"RTPROV_HONOUR_TIMEOUT": text})[
                    "honour-timeout"
                ],
                value,
            )


class Mistakes(OptionsTestCase):
    def test_too_many_shards(self) -> None:
        """A worker serves at most as many shards as a connection has channels for. With more
        shards, ``--shard`` is needed.
        """
        self.assertIn(
            "--shard: one worker can serve at most 400 shards",
            self.refused("rtprov-worker", "--shards", "401"),
        )
        self.parse("rtprov-worker", "--shards", "400")
        self.parse("rtprov-worker", "--shards", "1024", "--shard", "1000")

    def test_wrong_values(self) -> None:
        """A wrong value ends in one line that names the option or the variable that it came
        from.
        """
        for command, defaults in DEFAULTS.items():
            for option in defaults:
                for text in WRONG[option]:
                    if option not in FLAGS:
                        self.assertTrue(
                            self.refused(command, f"--{option}={text}").startswith(f"--{option}: "),
                            (option, text),
                        )
                    if text:
                        line = self.refused(command, environment={variable(option): text})
                        self.assertTrue(
                            line.startswith((f"{variable(option)}: ", f"--{option}: ")),
                            (option, text, line),
                        )

    def test_exclusive(self) -> None:
        """Two options that exclude each other are refused, whether they come from the command line
        or from variables.
        """
        for command in ("rtprov-frontend", "rtprov-worker"):
            line = self.refused(
                command,
                "--broker-file",
                "url",
                environment={"RTPROV_BROKER": "amqp://joe:sesame@broker/"},
            )
            self.assertEqual(
                line, "RTPROV_BROKER and --broker-file cannot be used together: give one of them"
            )
        line = self.refused("rtprov", "--listen", "tcp:1234", "--port", "1234")
        self.assertEqual(line, "--listen and --port cannot be used together: give one of them")

    def test_proxies(self) -> None:
        """``--proxy-protocol`` is refused if the port expects a header from every peer, or if its
        peers have no addresses.
        """
        environment = {"RTPROV_PROXY_PROTOCOL": "10.0.0.0/8"}
        for command in ("rtprov", "rtprov-frontend"):
            for where, why in (
                ("haproxy:tcp:1", "which expects a PROXY header from every peer: give one of them"),
                ("unix:a", "the peers of a Unix socket have no address; listen on haproxy:unix:a"),
            ):
                line = self.refused(command, "--listen", where, environment=environment)
                begin = f"RTPROV_PROXY_PROTOCOL cannot be used with {where}"
                self.assertTrue(line.startswith(begin), line)
                self.assertIn(why, line)
                self.parse(command, "--listen", where)
            self.parse(command, "--listen", "tcp:1", environment=environment)

    def test_no_such_shard(self) -> None:
        """``--shard`` must be less than ``--shards``."""
        line = self.refused("rtprov-worker", "--shards", "4", "--shard", "4")
        self.assertEqual(line, "--shard: there is no shard 4: the 4 shards are numbered from 0")

    def test_unknown_option(self) -> None:
        """The error names an unknown option, but does not show text that may hold a password."""
        for command in MODULES:
            self.assertEqual(self.refused(command, "--frob"), "option --frob not recognized")
            self.refused(command, "--port")
            self.refused(command, "--amqp://joe:sesame@broker/")

    def test_stray_argument(self) -> None:
        """The error for a stray argument does not show it, because it may be a broker URL without
        its option.
        """
        for command in MODULES:
            self.assertIn("argument", self.refused(command, "amqp://joe:sesame@broker/"))


class Help(OptionsTestCase):
    def test_help(self) -> None:
        """``--help`` lists each option with its variable and its default, if it has one."""
        for command, defaults in DEFAULTS.items():
            text = self.printed(command, "--help")
            self.assertTrue(
                text.startswith(f"Usage: twistd [twistd options] {command} [options]\n")
            )
            words = text.split()
            for option in defaults:
                self.assertTrue(f"--{option}=" in words or f"--{option}" in words, option)
                self.assertIn(f"(${variable(option)})", words)
            flat = " ".join(words)
            for each in options_of(command).options:
                if each.default is not None:
                    self.assertIn(f"[default: {each.default}] (${each.variable})", flat)

    def test_version(self) -> None:
        """``--version`` prints the version of rtprov."""
        for command in MODULES:
            self.assertEqual(self.printed(command, "--version"), f"rtprov {__version__}\n")

    def test_plugins(self) -> None:
        """twistd finds each command, its description and its options."""
        plugins: list[Any] = list(getPlugins(IServiceMaker))
        makers = {maker.tapname: maker for maker in plugins if maker.tapname.startswith("rtprov")}
        self.assertEqual({name: maker.module for name, maker in makers.items()}, MODULES)
        for name, maker in makers.items():
            self.assertTrue(maker.description.startswith("Asynchronous provisioning: "))
            self.assertEqual(maker.options.command, name)

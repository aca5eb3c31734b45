"""Environment variables without an effect: those that Kubernetes sets, and misspelt ones."""

from __future__ import annotations

import os
import sys

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rtprov.tap.command import Command
from rtprov.tap.environment_variables import OPTIONS_OF, Survey, survey
from rtprov.tap.options import ALL_NAMES
from tests.support.command_lines import MODULES, options_of


def surveyed(environment: dict[str, str], command: str = "rtprov-frontend") -> Survey:
    options = [option.name for option in options_of(command).options]
    return survey(environment, command, options, ALL_NAMES)


class Surveys(SynchronousTestCase):
    def test_kubernetes(self) -> None:
        """Variables of Kubernetes services named rtprov or rtprov-something are ignored, whatever
        their ports are named.
        """
        names = []
        for service in ("RTPROV", "RTPROV_FRONTEND", "RTPROV_FRONT_END_2"):
            names += [
                f"{service}_SERVICE_HOST",
                f"{service}_SERVICE_PORT",
                f"{service}_SERVICE_PORT_HTTPS",
            ]
            names += [f"{service}_PORT_8443_TCP{part}" for part in ("", "_PROTO", "_PORT", "_ADDR")]
        environment = dict.fromkeys(names, "10.0.0.1") | {
            "RTPROV_PORT": "tcp://10.0.0.1:8443",
            "RTPROV_X_PORT": "udp://10.0.0.1:53",
        }
        self.assertEqual(surveyed(environment), Survey(tuple(sorted(environment)), ()))

    def test_misspelt(self) -> None:
        """An unknown variable is reported with the nearest name. An empty one is not reported."""
        wrong = {
            "RTPROV_BROKR": "RTPROV_BROKER",
            "RTPROV_TOKEN": "RTPROV_TOKENS",
            "RTPROV_FRONTEND_LISTN": "RTPROV_FRONTEND_LISTEN",
        }
        environment = {
            **dict.fromkeys(wrong, "x"),
            "RTPROV_EMPTY": "",
            "PATH": "/bin",
            "XRTPROV_A": "x",
        }
        self.assertEqual(surveyed(environment), Survey((), tuple(sorted(wrong.items()))))

    def test_known(self) -> None:
        """The options of all commands are known, with and without the name of a command, and so are
        the variables of other programs of rtprov.
        """
        names = [
            "RTPROV_STUB_DELAY",
            "RTPROV_SHARD",
            "RTPROV_WORKER_CONCURRENCY",
            "RTPROV_BROKER_PASSWORD",
            "RTPROV_BROKER_PORT",
            "RTPROV_BROKER_FILE",
        ]
        names += [
            "RTPROV_API_URL",
            "RTPROV_API_CA",
            "RTPROV_API_TOKEN_FILE",
            "RTPROV_API_CERT",
            "RTPROV_API_KEY",
        ]
        names += ["RTPROV_REQUIRE_RABBITMQ", "RTPROV_REQUIRE_DEPLOY"]
        self.assertEqual(surveyed(dict.fromkeys(names, "1")), Survey((), ()))

    def test_option_of_another_command(self) -> None:
        """A variable with a command's name is reported if that command lacks the option, by each
        command. The nearest name may be another command's.
        """
        wrong = {
            "RTPROV_FRONTEND_LISTN": "RTPROV_FRONTEND_LISTEN",
            "RTPROV_STUB_CONCURRENCY": "RTPROV_CONCURRENCY",
            "RTPROV_WORKER_PATIENC": "RTPROV_WORKER_PATIENCE",
        }
        for command in MODULES:
            found = surveyed(dict.fromkeys(wrong, "1"), command)
            self.assertEqual(found.unknown, tuple(wrong.items()), command)

    def test_table(self) -> None:
        """The options of all commands are known as they are."""
        for role, names in OPTIONS_OF.items():
            options = options_of(f"rtprov-{role.lower()}").options
            self.assertEqual(names, sorted(option.name for option in options), role)


class Told(SynchronousTestCase):
    def test_lines(self) -> None:
        """The command logs one line for all variables that it ignores, and a warning for each
        unknown one. It never logs a value.
        """
        self.patch(sys, "excepthook", sys.excepthook)
        environment = {
            "RTPROV_PORT": "tcp://sesame",
            "RTPROV_SERVICE_HOST": "sesame",
            "RTPROV_PASSWORT": "sesame",
            "RTPROV_BROKR": "sesame",
        }
        self.patch(os, "environ", environment)
        options = options_of("rtprov-stub")
        options.parseOptions([])
        with capturedLogs() as events:
            Command(options)
        lines = [(event["log_level"].name, formatEvent(event)) for event in events]
        self.assertEqual(
            lines,
            [
                (
                    "info",
                    (
                        "ignoring variables that Kubernetes sets for services: RTPROV_PORT,"
                        " RTPROV_SERVICE_HOST"
                    ),
                ),
                (
                    "warn",
                    (
                        "RTPROV_BROKR is set, but no option reads it; the nearest name is"
                        " RTPROV_BROKER"
                    ),
                ),
                (
                    "warn",
                    (
                        "RTPROV_PASSWORT is set, but no option reads it; the nearest name is"
                        " RTPROV_PASSWORD"
                    ),
                ),
            ],
        )

"""The commands, and a function that parses their options from a command line and an environment."""

from __future__ import annotations

from twisted.python.reflect import namedAny

from rtprov.tap.command_options import CommandOptions

MODULES = {
    "rtprov": "rtprov.tap.all_in_one",
    "rtprov-stub": "rtprov.tap.stub",
    "rtprov-frontend": "rtprov.tap.frontend",
    "rtprov-worker": "rtprov.tap.worker",
    "rtprov-broker": "rtprov.tap.broker",
}


def options_of(command: str) -> CommandOptions:
    options: CommandOptions = namedAny(f"{MODULES[command]}.Options")()
    return options

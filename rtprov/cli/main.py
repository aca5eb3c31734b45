"""The verbs of ``rtprov``.

A verb passes its arguments on, unread, to the module that does the work; that one also answers
``--help``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import cast

import click

from rtprov import __version__

_PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}
ROLES = {
    "all-in-one": "rtprov",
    "frontend": "rtprov-frontend",
    "worker": "rtprov-worker",
    "broker": "rtprov-broker",
    "stub": "rtprov-stub",
}
"""The twistd commands, by the roles that ``rtprov run`` knows."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="rtprov %(version)s")
def main() -> None:
    """Operate rtprov. Each verb has its own --help."""


@main.group()
def certs() -> None:
    """Certificates."""


@main.group()
def token() -> None:
    """Bearer tokens for the front end."""


def _verb(group: click.Group, name: str, module: str, summary: str, *before: str) -> None:
    """Add a verb that runs the `main` of a module with the arguments `before` and its own."""

    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def run(arguments: tuple[str, ...]) -> None:
        work = cast("Callable[[list[str]], int | None]", import_module(module).main)
        raise SystemExit(work([*before, *arguments]) or 0)

    group.command(name, context_settings=_PASSED_ON, help=summary)(run)


_verb(main, "health", "rtprov.health", "Ask a process whether it is ready.")
_verb(main, "shards", "rtprov.tap.reshard", "Change the number of shards.")
_verb(main, "move", "rtprov.tap.move", "Move all tasks from one broker to another.")
_verb(certs, "dev", "rtprov.security.development", "Make certificates and a key for development.")
_verb(token, "new", "rtprov.security.tokens", "Make a token, and its line for the file.", "new")


@main.command("run", context_settings={**_PASSED_ON, "allow_interspersed_args": False})
@click.argument("role", type=click.Choice(list(ROLES)))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def run_role(role: str, options: tuple[str, ...]) -> None:
    """Run a role in the foreground, without a pid file. Its options are those of twistd's."""
    from twisted.scripts.twistd import run

    sys.argv = ["twistd", "--pidfile=", "--nodaemon", ROLES[role], *options]
    run()

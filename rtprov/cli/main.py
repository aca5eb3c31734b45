"""The verbs of ``rtprov``, and where each one is.

A verb's module is imported when it runs, so that ``rtprov --help`` is there at once. A verb of an
older command passes its arguments on, unread, to the module that does the work; that one also
answers ``--help``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, cast

import click

from rtprov import __version__

_PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
ROLES = {
    "all-in-one": "rtprov",
    "frontend": "rtprov-frontend",
    "worker": "rtprov-worker",
    "broker": "rtprov-broker",
    "stub": "rtprov-stub",
}
"""The twistd commands, by the roles that ``rtprov run`` knows."""

Loader = Callable[[], click.Command]


class Verbs(click.Group):
    """A group whose verbs are loaded when they are used.

    `lazy` maps each verb to its summary and to where it is, ``MODULE:NAME``.
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.lazy[cmd_name][1].partition(":")
        return cast("click.Command", getattr(import_module(module), name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs with their summaries, without loading them."""
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazy:
                rows.append((name, self.lazy[name][0]))
            else:
                command = self.get_command(ctx, name)
                assert command is not None
                rows.append((name, command.get_short_help_str(limit=80)))
        with formatter.section("Verbs"):
            formatter.write_dl(rows)


_VERBS = "rtprov.cli.verbs."


@click.group(
    cls=Verbs,
    context_settings=SETTINGS,
    lazy={
        "order": ("Order a task for a device.", f"{_VERBS}order:order"),
        "status": ("Show one task.", f"{_VERBS}one_task:status"),
        "wait": ("Wait until tasks have ended.", f"{_VERBS}waiting:wait"),
        "cancel": ("Cancel a task that was not sent yet.", f"{_VERBS}one_task:cancel"),
        "device": ("List the tasks of a device.", f"{_VERBS}lists:device"),
        "tasks": ("Search all tasks.", f"{_VERBS}lists:tasks"),
        "failures": ("Count failed tasks by reason.", f"{_VERBS}lists:failures"),
        "summary": ("Show how many tasks wait, run and have ended.", f"{_VERBS}summary:summary"),
        "top": ("Watch the summary, full screen, live.", f"{_VERBS}top:top"),
        "events": ("Show events as they happen.", f"{_VERBS}events:events"),
        "key": ("Sealing keys.", f"{_VERBS}keys:key"),
        "token": ("Bearer tokens for the front end.", f"{_VERBS}tokens:token"),
        "doctor": ("Look for mistakes in a set-up.", "rtprov.cli.doctor.verb:doctor"),
        "completion": ("Print the completion script of a shell.", f"{_VERBS}completion:completion"),
    },
)
@click.version_option(__version__, message="rtprov %(version)s")
@click.option("--url", metavar="URL", help="Service B.")
@click.option("--ca", metavar="FILE", help="CA of its certificate.")
@click.option("--token-file", metavar="FILE", help="File with the bearer token.")
@click.option("--certificate", metavar="FILE", help="Client certificate.")
@click.option("--private-key", metavar="FILE", help="Its private key.")
@click.option("--profile", metavar="NAME", help="Profile in ~/.config/rtprov.toml.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "jsonl", "csv"]),
    help="Format of the output.  [default: table]",
)
@click.pass_context
def main(
    ctx: click.Context, /, profile: str | None, output: str | None, **connection: str | None
) -> None:
    """Operate rtprov. Each verb has its own --help. The options may also follow the verb.

    A verb that asks service B finds it at --url, else at $RTPROV_API_URL, else in the profile of
    ~/.config/rtprov.toml, else at https://localhost:8443 with certs/ca.pem in the current folder.

    Exit status: 0 done; 1 some tasks failed; 2 usage or bad input; 3 not allowed; 4 not found; 5
    out of reach; 6 timed out while waiting.
    """
    ctx.meta["rtprov.profile"], ctx.meta["rtprov.output"] = profile, output
    ctx.meta["rtprov.connection"] = connection


@main.group()
def certs() -> None:
    """Certificates."""


# What the exit statuses of an older command mean among those of `rtprov.cli.failures.Status`, which
# this module does not import (see above).
BAD_INPUT = {1: 2, 78: 2}
BROKER = {1: 5, 78: 2}  # 1: the broker failed; 78: not with this configuration or state


def passed_on(
    group: click.Group,
    name: str,
    module: str,
    summary: str,
    *before: str,
    statuses: Mapping[int, int] = MappingProxyType({}),
) -> None:
    """Add a verb that runs the `main` of a module with the arguments `before` and its own.

    `statuses` maps exit statuses of `main` to the verb's.
    """

    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def run(arguments: tuple[str, ...]) -> None:
        work = cast("Callable[[list[str]], int | None]", import_module(module).main)
        try:
            status = work([*before, *arguments]) or 0
        except SystemExit as end:
            if not isinstance(end.code, int):
                raise
            status = end.code
        raise SystemExit(statuses.get(status, status))

    group.command(name, context_settings=_PASSED_ON, help=summary)(run)


passed_on(main, "health", "rtprov.health", "Ask a process whether it is ready.")
for _name, _module, _summary, *_before in (
    ("shards", "rtprov.tap.reshard", "Change the number of shards."),
    ("move", "rtprov.tap.move", "Move all tasks from one broker to another."),
    ("backup", "rtprov.tap.backup", "Save the journal of a broker.", "backup"),
    ("restore", "rtprov.tap.backup", "Fill an empty broker from a backup.", "restore"),
):
    passed_on(main, _name, _module, _summary, *_before, statuses=BROKER)
passed_on(
    certs,
    "dev",
    "rtprov.security.development",
    "Make certificates and a key to develop.",
    statuses=BAD_INPUT,
)


@main.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("role", type=click.Choice(list(ROLES)))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def run_role(role: str, options: tuple[str, ...]) -> None:
    """Run a role in the foreground, without a pid file. Its options are those of twistd's."""
    from twisted.scripts.twistd import run

    sys.argv = ["twistd", "--pidfile=", "--nodaemon", ROLES[role], *options]
    run()

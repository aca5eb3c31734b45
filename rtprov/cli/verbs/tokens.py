"""``rtprov token``: the file with the bearer tokens of a front end."""

from __future__ import annotations

import time
from pathlib import Path

import click

from rtprov.cli.editing import read_lines, replace_lines
from rtprov.cli.failures import Status, VerbFailed
from rtprov.cli.main import BAD_INPUT, SETTINGS, passed_on
from rtprov.cli.output import Column, Writer, stdout
from rtprov.cli.profile import variables_of
from rtprov.cli.session import ends_well, output_option
from rtprov.errors import ConfigurationError
from rtprov.security.tokens import ROLES, Token, new_token, parse_date, parse_tokens

_FILE = click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=variables_of("TOKENS", "FRONTEND"),
    default=Path("tokens"),
    show_default=True,
    metavar="FILE",
    help="The file that --tokens of the front end names ($RTPROV_TOKENS).",
)


@click.group(context_settings=SETTINGS)
def token() -> None:
    """Bearer tokens for the front end. It uses a changed file within 5 s."""


passed_on(
    token,
    "new",
    "rtprov.security.tokens",
    "Make a token, and print its line.",
    "new",
    statuses=BAD_INPUT,
)


def _parsed(file: Path, lines: list[str]) -> dict[str, Token]:
    """Return the tokens by name. Raises `VerbFailed`."""
    try:
        return {each.name: each for each in parse_tokens("\n".join(lines))}
    except ConfigurationError as error:
        raise VerbFailed(f"{file}: {error}", Status.USAGE) from None


@token.command()
@click.argument("name")
@_FILE
@click.option(
    "--role",
    type=click.Choice(list(ROLES)),
    default="order",
    show_default=True,
    help="What the caller may do.",
)
@click.option("--expires", metavar="DATE", help="The last day (UTC), such as 2027-01-31.")
@ends_well
def add(name: str, file: Path, role: str, expires: str | None) -> None:
    """Make a token for the caller NAME, add its line to the file, and print the token.

    The token is shown only this once.
    """
    try:
        last_day = None if expires is None else parse_date(expires)
    except ValueError as error:
        raise VerbFailed(f"--expires: {error}", Status.USAGE) from None
    try:
        made, secret = new_token(name, role=ROLES[role], expires=last_day)
    except ValueError as error:
        raise VerbFailed(f"{name}: {error}", Status.USAGE) from None
    lines = read_lines(file, "tokens", may_be_missing=True)
    if name in _parsed(file, lines):
        raise VerbFailed(
            f"{file}: {name} has a token already; revoke it first, or choose another name",
            Status.USAGE,
        )
    lines.append(made.line)
    _parsed(file, lines)  # the file may be full
    replace_lines(file, lines)
    click.echo(f"rtprov: {file}: added {name} ({role}); its token, shown only once:", err=True)
    click.echo(secret)


@token.command()
@click.argument("name")
@_FILE
@ends_well
def revoke(name: str, file: Path) -> None:
    """Remove the token of the caller NAME from the file."""
    lines = read_lines(file, "tokens")
    if name not in _parsed(file, lines):
        raise VerbFailed(f"{file}: there is no token of {name}", Status.NOT_FOUND)
    replace_lines(file, [line for line in lines if line.split()[:1] != [name]])
    click.echo(f"{file}: removed {name}; front ends refuse its token within 5 s")


@token.command("list")
@_FILE
@output_option
@ends_well
def list_tokens(file: Path, output: str) -> None:
    """List the callers that have a token, with their roles. Tokens are not shown."""
    columns = [
        Column("NAME", lambda row: row["name"]),
        Column("ROLE", lambda row: row["role"]),
        Column("EXPIRES", lambda row: row["expires"] or "-"),
        Column("", lambda row: "expired" if row["expired"] else ""),
    ]
    writer = Writer(output, columns, stdout(), names=("name", "role", "expires", "expired"))
    for each in _parsed(file, read_lines(file, "tokens")).values():
        writer.add(
            {
                "name": each.name,
                "role": str(each.role),
                "expires": None if each.expires is None else each.expires.isoformat(),
                "expired": each.expired(time.time()),
            }
        )
    writer.end("no tokens")

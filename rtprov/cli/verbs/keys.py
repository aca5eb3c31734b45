"""``rtprov key``: the file with the sealing keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from rtprov.cli.editing import read_lines, replace_lines
from rtprov.cli.failures import Status, VerbFailed
from rtprov.cli.main import SETTINGS
from rtprov.cli.output import Column, Writer, stdout
from rtprov.cli.profile import variables_of
from rtprov.cli.session import ends_well, output_option
from rtprov.errors import ConfigurationError
from rtprov.security.sealer import key_id, load_keys, new_key

_FILE = click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=variables_of("SEAL_KEYS", "FRONTEND", "WORKER"),
    default=Path("certs") / "seal.key",
    show_default=True,
    metavar="FILE",
    help="The file that --seal-keys of front ends and workers names ($RTPROV_SEAL_KEYS).",
)


@click.group(context_settings=SETTINGS)
def key() -> None:
    """Sealing keys: add a new one on all machines, promote it on all, then remove the old one."""


def _ids(file: Path, lines: Sequence[str]) -> list[str]:
    """Return the ids of the keys in their order. Raises `VerbFailed`."""
    try:
        return [key_id(each) for each in load_keys("\n".join(lines))]
    except ConfigurationError as error:
        raise VerbFailed(f"{file}: {error}", Status.USAGE) from None


def _is_key(line: str) -> bool:
    return bool(line.strip()) and not line.strip().startswith("#")


@key.command()
@_FILE
@ends_well
def add(file: Path) -> None:
    """Add a new key at the end of the file: it opens tasks, and seals none yet.

    Copy the file to all other machines, wait until each process has logged the new id, and then use
    promote.
    """
    lines = read_lines(file, "sealing keys")
    _ids(file, lines)
    lines.append(new_key())
    replace_lines(file, lines)
    ids = _ids(file, lines)
    click.echo(f"{file}: added {ids[-1]}; {ids[0]} still seals")


@key.command()
@click.argument("key_id", metavar="[ID]", required=False)
@_FILE
@ends_well
def promote(key_id: str | None, file: Path) -> None:
    """Make the key ID the first one, which seals. Without ID, the last key of the file.

    Every process must have the key already; service B answers 503 until a worker has it.
    """
    lines = read_lines(file, "sealing keys")
    ids = _ids(file, lines)
    wanted = key_id or ids[-1]
    if wanted not in ids:
        raise VerbFailed(f"{file}: there is no key {wanted}", Status.NOT_FOUND)
    places = [index for index, line in enumerate(lines) if _is_key(line)]
    chosen = lines.pop(places[ids.index(wanted)])
    lines.insert(places[0], chosen)
    replace_lines(file, lines)
    click.echo(f"{file}: {wanted} seals now; the others open: {', '.join(_ids(file, lines)[1:])}")


@key.command()
@click.argument("others", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@_FILE
@output_option
@ends_well
def check(others: tuple[Path, ...], file: Path, output: str) -> None:
    """Show the ids of the keys, and compare the file with OTHERS, copies from other machines.

    The ids are those that the log shows. Exit status: 2 if a file is invalid, readable by other
    users, or differs from the others.
    """
    columns = [
        Column("KEY", lambda row: row["key"]),
        Column("USE", lambda row: row["use"]),
        Column("FILE", lambda row: row["file"], fold=True),
    ]
    writer = Writer(output, columns, stdout(), names=("key", "use", "file"))
    wrong, found = [], {}
    for each in (file, *others):
        ids = found[each] = _ids(each, read_lines(each, "sealing keys"))
        for index, name in enumerate(ids):
            writer.add({"key": name, "use": "opens" if index else "seals", "file": str(each)})
        if each.stat().st_mode & 0o007:
            wrong.append(f"{each}: other users can read it (chmod o-rwx)")
        if len(set(ids)) != len(ids):
            wrong.append(f"{each}: holds a key twice")
        if set(ids) != set(found[file]):
            wrong.append(f"{each}: differs from {file}: a worker must have all keys")
        elif ids[0] != found[file][0]:
            wrong.append(f"{each}: its first key, which seals, is not the first key of {file}")
    writer.end()
    if wrong:
        raise VerbFailed("\nrtprov: ".join(wrong), Status.USAGE)

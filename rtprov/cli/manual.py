"""The man page of ``rtprov``, made from the help: ``python -m rtprov.cli.manual rtprov.1``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

import click

from rtprov import __version__
from rtprov.cli.main import Verbs, main

_FILES = (
    ("~/.config/rtprov.toml", "profiles: url, ca, token_file, certificate, private_key"),
    ("certs/ca.pem", "the CA of the development set-up"),
)
_ENVIRONMENT = (
    ("RTPROV_API_URL", "the URL of service B"),
    ("RTPROV_API_CA", "file with the CA of its certificate"),
    ("RTPROV_API_TOKEN_FILE", "file with the bearer token"),
    ("RTPROV_API_CERT, RTPROV_API_KEY", "files with a client certificate and its private key"),
    ("RTPROV_API_PROFILE", "the profile to use"),
    ("NO_COLOR", "no colours"),
)


def page() -> str:
    """Return the page in the format of man(7)."""
    context = click.Context(main, info_name="rtprov", max_content_width=100)
    lines = [
        f'.TH RTPROV 1 "" "rtprov {__version__}" "User Commands"',
        ".SH NAME",
        r"rtprov \- operate rtprov",
        ".SH SYNOPSIS",
        ".B rtprov",
        r"[OPTIONS] VERB [ARGUMENTS]\|.\|.\|.",
        ".SH DESCRIPTION",
        *_paragraphs(main.help or ""),
        ".SH OPTIONS",
        *_options(main, context),
        ".SH VERBS",
    ]
    for words, command, inner in verbs(main, context):
        lines += _verb(words, command, inner)
    for title, entries in (("ENVIRONMENT", _ENVIRONMENT), ("FILES", _FILES)):
        lines.append(f".SH {title}")
        for name, text in entries:
            lines += [".TP", f".B {_escaped(name)}", _escaped(text)]
    return "\n".join(lines) + "\n"


def verbs(
    group: Verbs | click.Group, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield all verbs with their full names, those of groups too."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        settings = command.context_settings
        inner = click.Context(command, info_name=name, parent=context, **settings)
        if isinstance(command, click.Group):
            yield from verbs(command, inner)
        else:
            yield inner.command_path.removeprefix("rtprov "), command, inner


def _verb(words: str, command: click.Command, context: click.Context) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    return [
        f".SS {_escaped(words)} {_escaped(usage)}",
        *_paragraphs(command.help or ""),
        *_options(command, context),
    ]


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield ".TP"
            yield f".B {_escaped(record[0])}"
            yield _escaped(record[1])


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the lines of a help text, with a request before each paragraph."""
    for paragraph in text.strip().split("\n\n"):
        yield ".PP"
        verbatim = paragraph.lstrip().startswith("\b")
        if verbatim:
            yield ".nf"
        for line in paragraph.splitlines():
            if line.strip("\b "):
                yield _escaped(line.strip())
        if verbatim:
            yield ".fi"


def _escaped(text: str) -> str:
    r"""Return text for roff: a backslash is ``\e``, and no line begins with a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...")
    return rf"\&{text}" if text.startswith((".", "'")) else text


@click.command()
@click.argument("file", type=click.File("w", encoding="utf-8"), default="-")
def write(file: TextIO) -> None:
    """Write the man page to FILE."""
    file.write(page())


if __name__ == "__main__":
    write()

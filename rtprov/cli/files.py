"""Text files that operators give to a verb: UTF-8, with or without a byte order mark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rtprov.cli.failures import Status, VerbFailed
from rtprov.errors import ConfigurationError
from rtprov.security.files import read_file, without_mark


def read_text(file: Path, what: str) -> str:
    """Return the content of a file. `what` names it in errors. Raises `VerbFailed`."""
    return _decoded(file, what, lambda: read_file(file, what))


def text_of(content: bytes, name: str, what: str) -> str:
    """Return the text of what was read from the file `name`. Raises `VerbFailed`."""
    return _decoded(name, what, lambda: without_mark(content, name, what))


def _decoded(name: Path | str, what: str, read: Callable[[], bytes]) -> str:
    try:
        return read().decode()
    except ConfigurationError as error:
        raise VerbFailed(str(error), Status.USAGE) from None
    except UnicodeDecodeError:
        raise VerbFailed(
            f"{name}: cannot read the {what}: it is not UTF-8 text", Status.USAGE
        ) from None

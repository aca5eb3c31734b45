"""Text files that an operator provides, and may replace while a process runs."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TYPE_CHECKING

from rtprov.errors import ConfigurationError, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

# UTF-32's little-endian mark begins with the first
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder. Raises `ConfigurationError` if that cannot be known,
    as in a folder without permission.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise refusal(f"{path}: {error.strerror}", error) from None
    return True


def read_file(path: Path, what: str) -> bytes:
    """The content of a text file, without the byte order mark that some editors write; `what` says
    in the error what it should have been.

    Raises `ConfigurationError` if it cannot be read, or is UTF-16 or UTF-32.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise refusal(f"{path}: cannot read the {what}: {error.strerror}", error) from None
    if content.startswith(_WIDE_MARKS) or b"\0" in content:
        raise ConfigurationError(
            f"{path}: cannot read the {what}: it is not UTF-8 text (UTF-16?); save it as UTF-8"
        )
    return content.removeprefix(codecs.BOM_UTF8)


def read_text(path: Path, what: str) -> str:
    """What `read_file` reads, decoded; bytes that are not UTF-8 become U+FFFD, for the caller's own
    check to name the line.
    """
    return read_file(path, what).decode("utf-8", "replace")


class Files:
    """TLS files that are loaded, and that somebody may replace. `certificates` are those whose time
    can run out.
    """

    certificates: Sequence[Path] = ()

    def __init__(self, *paths: Path | None) -> None:
        self._watched = [path for path in paths if path is not None]
        self._seen = self._look()

    def load(self) -> None:
        """Load the files; changes nothing where it raises `ConfigurationError`."""
        raise NotImplementedError

    def reload(self) -> None:
        """Load the files again. Raises `ConfigurationError` where they are no good: what was loaded
        before goes on.
        """
        self._seen = self._look()
        self.load()

    @property
    def changed(self) -> bool:
        """Whether a file is another one than when it was last loaded, whatever came of that."""
        return self._look() != self._seen

    def _look(self) -> list[object]:
        return [_version(path) for path in self._watched]


def _version(path: Path) -> object:
    """What tells one version of a file from another."""
    try:
        status = path.stat()
    except OSError:
        return None
    # the last one changes with the access rights
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

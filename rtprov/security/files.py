"""Text files that operators provide, and that may be replaced while a process runs."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TYPE_CHECKING

from rtprov.errors import ConfigurationError, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

# The mark of little-endian UTF-32 begins with that of little-endian UTF-16.
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_there(path: Path) -> bool:
    """Return whether a file or folder exists.

    Raises `ConfigurationError` if the system does not say, for example for lack of permission.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise refusal(f"{path}: {error.strerror}", error) from None
    return True


def read_file(path: Path, what: str) -> bytes:
    """Return the content of a text file, without a byte order mark.

    `what` names the expected content in errors. Raises `ConfigurationError` if the file cannot be
    read, or is UTF-16 or UTF-32.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise refusal(f"{path}: cannot read the {what}: {error.strerror}", error) from None
    return without_mark(content, path, what)


def without_mark(content: bytes, name: Path | str, what: str) -> bytes:
    """Return the content of the text file `name` without a byte order mark.

    `what` names the expected content in errors. Raises `ConfigurationError` for UTF-16 and UTF-32.
    """
    if content.startswith(_WIDE_MARKS) or b"\0" in content:
        raise ConfigurationError(
            f"{name}: cannot read the {what}: it is not UTF-8 text (UTF-16?); save it as UTF-8"
        )
    return content.removeprefix(codecs.BOM_UTF8)


def read_text(path: Path, what: str) -> str:
    """Return the content of a text file as text (see `read_file`).

    Bytes that are not UTF-8 become U+FFFD, so that the caller's own check can name the line.
    """
    return read_file(path, what).decode("utf-8", "replace")


class Files:
    """Base class for files that are loaded at the start and may be replaced later.

    `certificates` lists the files that contain certificates, for checks of their expiry.
    """

    certificates: Sequence[Path] = ()

    def __init__(self, *paths: Path | None) -> None:
        self._watched = [path for path in paths if path is not None]
        self._loaded: list[object] | None = self.versions

    def load(self) -> None:
        """Load the files. Raises `ConfigurationError`, and then changes nothing."""
        raise NotImplementedError

    def reload(self) -> None:
        """Load the files again.

        Raises `ConfigurationError` if a file is invalid; what was loaded before stays in use.
        """
        versions = self.versions
        self._loaded = None
        self.load()
        self._loaded = versions

    @property
    def changed(self) -> bool:
        """Whether a file differs from when it was last loaded, or could not be loaded then.

        What kept it from being loaded may pass without a change of the file: no free file
        descriptor, or another file that is missing.
        """
        return self.versions != self._loaded

    @property
    def versions(self) -> list[object]:
        """A value that differs for each version of the files."""
        return [_version(path) for path in self._watched]


def _version(path: Path) -> object:
    """Return a value that differs for each version of a file; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    # the change time also changes with the access rights
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

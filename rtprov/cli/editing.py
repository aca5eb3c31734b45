"""Replaces a file that running processes watch."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from rtprov.cli.failures import Status, VerbFailed
from rtprov.cli.files import read_text


def read_lines(file: Path, what: str, *, may_be_missing: bool = False) -> list[str]:
    """Return the lines of a text file. Raises `VerbFailed`.

    With `may_be_missing`, a file that does not exist has no lines.
    """
    if may_be_missing:
        try:
            file.stat()
        except FileNotFoundError:
            return []
        except OSError:
            pass  # reading it fails, too, and tells why
    return read_text(file, what).splitlines()


def replace_lines(file: Path, lines: list[str], *, mode: int = 0o600) -> None:
    """Write a file's new lines by renaming another file over it; `mode` is that of a new file.

    Owner and mode of an existing file stay. Processes see the old file or the new one, never a part
    of it. Raises `VerbFailed`.
    """
    try:
        file = file.resolve()  # a symbolic link stays one
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as made:
                made.write("".join(f"{line}\n" for line in lines))
                made.flush()
                os.fsync(made.fileno())
            with suppress(FileNotFoundError):
                before = file.stat()
                mode = before.st_mode & 0o7777
                with suppress(PermissionError):
                    os.chown(name, before.st_uid, before.st_gid)
            os.chmod(name, mode)  # noqa: PTH101 - beside chown
            os.replace(name, file)  # noqa: PTH105 - beside chown
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108 - beside replace
            raise
    except OSError as error:
        raise VerbFailed(f"{file}: cannot write it: {error.strerror}", Status.USAGE) from None

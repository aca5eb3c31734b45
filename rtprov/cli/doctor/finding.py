"""What a check has found."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import frozen

from rtprov.errors import ConfigurationError

_ACCESS = "let this user read it and the folders above it, or run this as the user that runs rtprov"
_PATH = "correct the path, or what is there"


class Level(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"  # works today
    ERROR = "error"  # does not work, or is not safe


@frozen
class Finding:
    """A result of one check: `about` is what was looked at, `advice` what to do."""

    level: Level
    check: str
    about: str
    message: str
    advice: str = ""


@frozen
class Check:
    """Makes the findings of one check on one thing."""

    name: str
    about: str

    def ok(self, message: str) -> Finding:
        """Return a finding that nothing is wrong."""
        return Finding(Level.OK, self.name, self.about, message)

    def warning(self, message: str, advice: str) -> Finding:
        """Return a finding that something will go wrong, or is unusual."""
        return Finding(Level.WARNING, self.name, self.about, message, advice)

    def error(self, message: str, advice: str) -> Finding:
        """Return a finding that something is wrong."""
        return Finding(Level.ERROR, self.name, self.about, message, advice)

    def refused(self, error: Exception, advice: str) -> Finding:
        """Return a finding that a file cannot be used. `advice` is for a file that can be read."""
        return self.error(str(error), _ACCESS if "Permission denied" in str(error) else advice)

    def until_error(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """Yield the findings. If the system refuses to show a file, yield an error and end."""
        try:
            yield from findings
        except OSError as error:
            why = error.strerror or str(error)
            refusal = ConfigurationError(f"{error.filename or self.about}: {why}")
            yield self.refused(refusal, _PATH)
        except ConfigurationError as error:
            yield self.refused(error, _PATH)


def open_to_others(path: Path, name: str) -> Iterator[Finding]:
    """Yield an error if others than the owner and the group have any access to a secret file."""
    mode = path.stat().st_mode
    if mode & 0o007:
        access = "read" if mode & 0o004 else "write" if mode & 0o002 else "execute"
        yield Check(name, str(path)).error(
            f"every user of this machine can {access} it (mode {mode & 0o777:04o})",
            f"chmod o-rwx {path}; if others have used it, replace what is in it",
        )


def or_ok(findings: Iterable[Finding], check: Check, message: str) -> list[Finding]:
    """Return the findings, or one that says that all is well."""
    found = list(findings)
    return found or [check.ok(message)]

"""What a check has found."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import frozen


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


def readable_by_others(path: Path, name: str) -> Iterator[Finding]:
    """Yield an error if others than the owner and the group can read a secret file."""
    mode = path.stat().st_mode
    if mode & 0o004:
        yield Check(name, str(path)).error(
            f"every user of this machine can read it (mode {mode & 0o777:04o})",
            f"chmod o-rwx {path}; if others have read it, replace what is in it",
        )


def or_ok(findings: Iterable[Finding], check: Check, message: str) -> list[Finding]:
    """Return the findings, or one that says that all is well."""
    found = list(findings)
    return found or [check.ok(message)]

"""Reloading of files that change at run time (certificates, keys, tokens), and expiry warnings."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.errors import ConfigurationError
from rtprov.security.certificates import expires_at, expiry_warning

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from rtprov.security.files import Files

_log = Logger()
LOOK_EVERY_S = 2.0  # a token that is removed is refused within 5 s
WARN_EVERY_S = 86400.0


def warn_of_expiry(*certificates: Path) -> None:
    """Log a warning for each certificate that has expired or expires soon.

    From outside, an expired certificate looks like any other TLS failure.
    """
    for certificate in certificates:
        trouble = expiry_warning(certificate, datetime.now(timezone.utc))
        if trouble is not None:
            _log.warn("{trouble}", trouble=trouble)


class Renewal(Service):
    """Watches `files`: reloads them within 2 s of a change, or when `reload` is called.

    `what` names the files in the log. If the new files cannot be used, the previous version stays
    in use, and they are tried again every 2 s. An error is logged once for each change.
    """

    def __init__(self, files: Files, *, clock: IReactorTime, what: str = "certificates") -> None:
        self._files = files
        self._what = what
        self._looking = LoopingCall(self._look)
        self._looking.clock = self._clock = clock
        self._warned = clock.seconds()
        self._failed: tuple[str, list[object]] | None = None
        self._expiries: dict[str, float] | None = None

    @property
    def expiries(self) -> dict[str, float]:
        """When certificates expire, in seconds since the epoch, by their file names."""
        if self._expiries is None:
            self._expiries = {}
            for path in self._files.certificates:
                with suppress(ConfigurationError):
                    self._expiries[path.name] = expires_at(path)
        return self._expiries

    def startService(self) -> None:
        super().startService()
        looking = self._looking.start(LOOK_EVERY_S, now=False)
        looking.addErrback(
            lambda reason: _log.failure(
                "{what}: the files are no longer watched for changes", reason, what=self._what
            )
        )

    def stopService(self) -> None:
        super().stopService()
        if self._looking.running:
            self._looking.stop()

    def reload(self) -> None:
        """Load the files again, and log the outcome in any case."""
        self._failed = None
        self._reload()

    def _reload(self) -> None:
        versions = self._files.versions
        try:
            self._files.reload()
        except ConfigurationError as error:
            if not self._failed_newly(error, versions):
                return
            _log.error(
                "{what} not reloaded, the previous version stays in use: {error}",
                what=self._what,
                error=error,
            )
        except Exception as error:
            if not self._failed_newly(error, versions):
                return
            _log.failure(
                "{what} not reloaded because of an internal error, the previous version stays in"
                " use",
                what=self._what,
            )
        else:
            self._failed = None
            _log.info("{what} reloaded", what=self._what)
        self._warn()

    def _failed_newly(self, error: Exception, versions: list[object]) -> bool:
        """Return whether the last attempt did not fail in the same way, with the same files."""
        before, self._failed = self._failed, (repr(error), versions)
        return before != self._failed

    def _look(self) -> None:
        if self._files.changed:
            self._reload()
        if self._clock.seconds() - self._warned >= WARN_EVERY_S:
            self._warn()

    def _warn(self) -> None:
        self._warned = self._clock.seconds()
        self._expiries = None
        # A file that cannot be read now was logged when it could not be loaded.
        with suppress(ConfigurationError):
            warn_of_expiry(*self._files.certificates)

"""Files that are replaced while a server runs, such as certificates, whose end is also told of in
time, and tokens.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

from rtprov.errors import ConfigurationError
from rtprov.security.certificates import expiry_warning
from rtprov.tap.listening import log

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from rtprov.security.files import Files

LOOK_EVERY_S = 2.0  # a token that is removed is refused within 5 s
WARN_EVERY_S = 86400.0


def warn_of_expiry(*certificates: Path) -> None:
    """Say in the log that a certificate has expired, or soon will have: from outside that looks
    like any other failure of TLS.
    """
    for certificate in certificates:
        trouble = expiry_warning(certificate, datetime.now(timezone.utc))
        if trouble is not None:
            log.warn("{trouble}", trouble=trouble)


class Renewal(Service):
    """Loads `files` again within seconds when they are replaced, or when told to `reload`. `what`
    names them in the log.

    What is no good is told of in the log, once, and what was loaded before stays.
    """

    def __init__(self, files: Files, *, clock: IReactorTime, what: str = "certificates") -> None:
        self._files = files
        self._what = what
        self._looking = LoopingCall(self._look)
        self._looking.clock = self._clock = clock
        self._warned = clock.seconds()

    def startService(self) -> None:
        super().startService()
        looking = self._looking.start(LOOK_EVERY_S, now=False)
        looking.addErrback(
            lambda reason: log.failure(
                "the {what} are no longer looked at", reason, what=self._what
            )
        )

    def stopService(self) -> None:
        super().stopService()
        if self._looking.running:
            self._looking.stop()

    def reload(self) -> None:
        """Load the files again."""
        try:
            self._files.reload()
        except ConfigurationError as error:
            log.error(
                "{what} not reloaded, those before stay: {error}", what=self._what, error=error
            )
        except Exception:
            log.failure(
                "{what} not reloaded for an error of ours, those before stay", what=self._what
            )
        else:
            log.info("{what} reloaded", what=self._what)
        self._warn()

    def _look(self) -> None:
        if self._files.changed:
            self.reload()
        elif self._clock.seconds() - self._warned >= WARN_EVERY_S:
            self._warn()

    def _warn(self) -> None:
        self._warned = self._clock.seconds()
        # a file that cannot be read now was told of when it was not loaded
        with suppress(ConfigurationError):
            warn_of_expiry(*self._files.certificates)

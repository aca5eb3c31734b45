"""A test case for commands that run as daemons, with a pid file and a log in the working folder."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from tests.support.processes import POLL_EVERY_S, ProcessTestCase

reactor = cast("Any", _reactor)


class DaemonTestCase(ProcessTestCase):
    """Daemons are known by the name of their files: ``NAME.pid`` and ``NAME.log``."""

    def kill_at_end(self, *names: str) -> None:
        """Kill these daemons at the end of the test, as far as they run."""
        for name in names:
            self.addCleanup(self._kill_daemon, name)

    async def daemon_logged(self, name: str, pattern: str) -> re.Match[str]:
        """Wait until the log of a daemon matches a regular expression."""
        file = self.folder / f"{name}.log"
        while True:
            found = re.search(pattern, file.read_text()) if file.exists() else None
            if found is not None:
                return found
            await deferLater(reactor, POLL_EVERY_S)

    def _kill_daemon(self, name: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)

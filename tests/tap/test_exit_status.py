"""An operator's mistakes end in one line and the right exit status. `tests/processes/test_exits.py`
has the tests with real processes.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Mapping
from typing import Any, cast

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import ConfigurationError, TemporarilyUnavailable
from rtprov.tap.exit_status import Ending

WRONG = ConfigurationError("certs/stub.pem: holds no PEM certificate")


class Endings(SynchronousTestCase):
    def setUp(self) -> None:
        self.err = io.StringIO()
        for name, value in (
            ("excepthook", sys.excepthook),
            ("__stderr__", self.err),
            ("stderr", self.err),
        ):
            self.patch(sys, name, value)

    def raised(
        self, error: BaseException, launcher: Mapping[str, Any] | None = None
    ) -> int | str | None:
        """Let an exception end the process; return its exit status."""
        Ending("rtprov-stub", launcher).install()
        try:
            sys.excepthook(type(error), error, None)
        except SystemExit as end:
            return end.code
        return 1

    def test_configuration(self) -> None:
        """A wrong configuration exits with 78, a temporary error with 1. Each is one line."""
        for error, status in ((WRONG, 78), (TemporarilyUnavailable("Address already in use"), 1)):
            self.assertEqual(self.raised(error), status)
        lines = [
            "rtprov-stub: certs/stub.pem: holds no PEM certificate",
            "rtprov-stub: Address already in use",
        ]
        self.assertEqual(self.err.getvalue().splitlines(), lines)

    def test_files_of_twistd(self) -> None:
        """If twistd cannot write a file, the error is one line with status 78. A full disk is
        temporary: status 1.
        """
        self.assertEqual(
            self.raised(PermissionError(errno.EACCES, "Permission denied", "/run/twistd.pid")), 78
        )
        self.assertEqual(
            self.raised(OSError(errno.ENOSPC, "No space left on device", b"/log/twistd.log")), 1
        )
        lines = [
            "rtprov-stub: /run/twistd.pid: Permission denied",
            "rtprov-stub: /log/twistd.log: No space left on device",
        ]
        self.assertEqual(self.err.getvalue().splitlines(), lines)

    def test_error_of_ours(self) -> None:
        """Any other exception keeps its traceback. KeyboardInterrupt has none."""
        self.assertEqual(self.raised(ZeroDivisionError("by zero")), 1)
        self.assertEqual(self.err.getvalue(), "ZeroDivisionError: by zero\n")
        self.raised(KeyboardInterrupt())
        self.assertEqual(self.err.getvalue(), "ZeroDivisionError: by zero\n")

    def test_logged_once(self) -> None:
        """The line is also logged if the log is a file or syslog, and not if it goes to the
        terminal.
        """
        for launcher, logged in (
            (None, False),
            ({"nodaemon": 1, "logfile": None}, False),
            ({"nodaemon": 1, "logfile": "-"}, False),
            ({"nodaemon": 1, "logfile": "log"}, True),
            ({"nodaemon": 1, "logfile": None, "syslog": 1}, True),
        ):
            with capturedLogs() as events:
                self.raised(WRONG, launcher)
            self.assertEqual(
                [formatEvent(event) for event in events],
                [f"rtprov-stub: {WRONG}"] * logged,
                launcher,
            )

    def test_daemon(self) -> None:
        """If twistd has not made the daemon yet, the error is shown on standard error at once."""
        launcher = {"nodaemon": 0, "logfile": None}
        self.assertEqual(self.raised(WRONG, launcher), 78)
        cast("Any", sys.__stderr__).close()
        self.assertEqual(self.err.getvalue(), f"rtprov-stub: {WRONG}\n")
        self.assertIs(sys.__stderr__, self.err)

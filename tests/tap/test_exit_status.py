"""What an operator's mistake ends in: one line and the right exit status;
`tests/processes/test_exits.py` has real processes.
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
        """A configuration that cannot work is 78, what may pass is 1; each is one line."""
        for error, status in ((WRONG, 78), (TemporarilyUnavailable("Address already in use"), 1)):
            self.assertEqual(self.raised(error), status)
        lines = [
            "rtprov-stub: certs/stub.pem: holds no PEM certificate",
            "rtprov-stub: Address already in use",
        ]
        self.assertEqual(self.err.getvalue().splitlines(), lines)

    def test_files_of_twistd(self) -> None:
        """A file that twistd cannot have is one line too; a full disk may pass."""
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
        """Anything else keeps its traceback; an interrupt has none."""
        self.assertEqual(self.raised(ZeroDivisionError("by zero")), 1)
        self.assertEqual(self.err.getvalue(), "ZeroDivisionError: by zero\n")
        self.raised(KeyboardInterrupt())
        self.assertEqual(self.err.getvalue(), "ZeroDivisionError: by zero\n")

    def test_logged_once(self) -> None:
        """The line is in the log too where that is a file, and not where it goes to the terminal as
        well.
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
        """Where twistd is to make a daemon and there is none yet, everything is shown at once."""
        launcher = {"nodaemon": 0, "logfile": None}
        self.assertEqual(self.raised(WRONG, launcher), 78)
        cast("Any", sys.__stderr__).close()
        self.assertEqual(self.err.getvalue(), f"rtprov-stub: {WRONG}\n")
        self.assertIs(sys.__stderr__, self.err)

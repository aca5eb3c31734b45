"""Which lines are logged under twistd."""

from __future__ import annotations

import io
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.logger import Logger, LogLevel, LogPublisher, textFileLogObserver
from twisted.python import log as legacy
from twisted.trial.unittest import SynchronousTestCase

from rtprov.tap.logs import quiet_observer, text_observer

HERE: dict[str, Any] = {
    "logger": None,
    "logfile": None,
    "nodaemon": 1,
    "syslog": 0,
    "prefix": "twisted",
}


class Quiet(SynchronousTestCase):
    def setUp(self) -> None:
        self.out = io.StringIO()
        self.patch(sys, "stdout", self.out)
        observer = quiet_observer(HERE)
        assert observer is not None
        self.publisher = LogPublisher(observer)

    def lines(self) -> list[str]:
        """Return the written lines without time and namespace."""
        return [line.partition("] ")[2] for line in self.out.getvalue().splitlines()]

    def test_twisted(self) -> None:
        """Lines of Twisted about versions, factories and ports are left out. The signal that ends
        the process is shown.
        """
        for namespace, text in (
            ("twisted.scripts._twistd_unix.UnixAppLogger", "twistd 26.10.0 starting up."),
            ("twisted.internet.protocol.Factory", "Starting factory"),
            ("twisted.internet.base", "Main loop terminated."),
            ("twisted.internet.base", "Received SIGTERM, shutting down."),
        ):
            Logger(namespace=namespace, observer=self.publisher).info(text)
        legacy.LogPublisher(publishPublisher=self.publisher).msg("JsonSite starting on 8443")
        self.assertEqual(self.lines(), ["Received SIGTERM, shutting down."])

    def test_trouble(self) -> None:
        """Twisted's warnings and errors are shown, and all lines of rtprov."""
        for level in (LogLevel.warn, LogLevel.error, LogLevel.critical):
            Logger(namespace="twisted.web", observer=self.publisher).emit(level, level.name)
        legacy.LogPublisher(publishPublisher=self.publisher).msg("unhandled", isError=1)
        Logger(namespace="rtprov", observer=self.publisher).info("ours")
        self.assertEqual(self.lines(), ["warn", "error", "critical", "unhandled", "ours"])


class Times(SynchronousTestCase):
    def test_lines(self) -> None:
        """A line is the same as with Twisted's observer, whatever its time."""
        ours, theirs = io.StringIO(), io.StringIO()
        publisher = LogPublisher(text_observer(ours), textFileLogObserver(theirs))
        for when in (None, 0.0, 1.0, 1.999, 1_800_000_000.25, 1_800_000_000.75, 1_800_000_001.0):
            publisher(
                {
                    "log_format": "one\n{line}",
                    "line": "{two}",
                    "log_time": when,
                    "log_namespace": "rtprov",
                    "log_level": LogLevel.info,
                }
            )
        self.assertEqual(ours.getvalue(), theirs.getvalue())
        self.assertEqual(len(ours.getvalue().splitlines()), 14)


class Places(SynchronousTestCase):
    def test_file(self) -> None:
        """``--logfile``, or twistd.log of a daemon, is written. SIGUSR1 starts a new file."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        before = signal.getsignal(signal.SIGUSR1)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        file = Path(folder.name) / "log"
        observer = quiet_observer(HERE | {"logfile": str(file)})
        assert observer is not None
        Logger(namespace="rtprov", observer=observer).info("ours")
        self.assertTrue(file.read_text().endswith("[rtprov#info] ours\n"))
        self.assertNotEqual(signal.getsignal(signal.SIGUSR1), signal.SIG_DFL)

    def test_left_to_twistd(self) -> None:
        """An operator's own observer is not replaced. twistd itself refuses to log to standard
        output as a daemon.
        """
        self.assertIsNone(quiet_observer(HERE | {"logger": print}))
        self.assertIsNone(quiet_observer(HERE | {"logfile": "-", "nodaemon": 0}))

    def test_cannot_be_opened(self) -> None:
        """The error for a log that cannot be opened has the file name."""
        error = self.assertRaises(OSError, quiet_observer, HERE | {"logfile": "/nowhere/log"})
        self.assertEqual(error.filename, "/nowhere/log")

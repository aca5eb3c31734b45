"""Which lines are logged under twistd."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python import log as legacy
from twisted.trial.unittest import SynchronousTestCase

from rtprov.tap.logs import JSON, TEXT, quiet_observer

HERE: dict[str, Any] = {
    "logger": None,
    "logfile": None,
    "nodaemon": 1,
    "syslog": 0,
    "prefix": "twisted",
}


def observer(launcher: dict[str, Any], log_format: str = TEXT) -> ILogObserver | None:
    """Return the observer of a front end, without journald."""
    return quiet_observer(launcher, role="frontend", log_format=log_format, environ={})


class Quiet(SynchronousTestCase):
    def setUp(self) -> None:
        self.out = io.StringIO()
        self.patch(sys, "stdout", self.out)
        target = observer(HERE)
        assert target is not None
        self.publisher = LogPublisher(target)

    def lines(self) -> list[str]:
        """Return the written lines without time, level and role."""
        return [line.split(" ", 3)[3] for line in self.out.getvalue().splitlines()]

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


class Places(SynchronousTestCase):
    def test_file(self) -> None:
        """``--logfile``, or twistd.log of a daemon, is written. SIGUSR1 starts a new file."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        before = signal.getsignal(signal.SIGUSR1)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        file = Path(folder.name) / "log"
        target = observer(HERE | {"logfile": str(file)})
        assert target is not None
        Logger(namespace="rtprov", observer=target).info("ours")
        self.assertTrue(file.read_text().endswith("Z INFO frontend ours\n"))
        self.assertNotEqual(signal.getsignal(signal.SIGUSR1), signal.SIG_DFL)

    def test_left_to_twistd(self) -> None:
        """An operator's own observer is not replaced. twistd itself refuses to log to standard
        output as a daemon.
        """
        self.assertIsNone(observer(HERE | {"logger": print}))
        self.assertIsNone(observer(HERE | {"logfile": "-", "nodaemon": 0}))

    def test_cannot_be_opened(self) -> None:
        """The error for a log that cannot be opened has the file name."""
        error = self.assertRaises(OSError, observer, HERE | {"logfile": "/nowhere/log"})
        self.assertEqual(error.filename, "/nowhere/log")


class Journald(SynchronousTestCase):
    def written(self, environ: dict[str, str], log_format: str = TEXT) -> str:
        """Return what a warning is on standard output, which is a pipe."""
        read, write = os.pipe()
        with os.fdopen(read) as reader, os.fdopen(write, "w") as writer:
            self.patch(sys, "stdout", writer)
            target = quiet_observer(HERE, role="worker", log_format=log_format, environ=environ)
            assert target is not None
            Logger(namespace="rtprov", observer=target).warn("ours\nnext")
            writer.close()
            return reader.read()

    def test_priorities(self) -> None:
        """Under journald, each line of text and of JSON begins with its priority."""
        lines = self.written({"JOURNAL_STREAM": "8:1"}).splitlines()
        self.assertEqual([line[:3] for line in lines], ["<4>", "<4>"])
        text = self.written({"JOURNAL_STREAM": "8:1"}, JSON)
        self.assertTrue(text.startswith('<4>{"ts":"'), text)

    def test_elsewhere(self) -> None:
        """Elsewhere no priorities are written: neither without journald, nor to a file."""
        self.assertRegex(self.written({}), r"\A\d+-")
        with tempfile.TemporaryFile("w+") as file:
            self.patch(sys, "stdout", file)
            target = quiet_observer(
                HERE, role="worker", log_format=TEXT, environ={"JOURNAL_STREAM": "8:1"}
            )
            assert target is not None
            Logger(namespace="rtprov", observer=target).warn("ours")
            file.seek(0)
            self.assertRegex(file.read(), r"\A\d+-")

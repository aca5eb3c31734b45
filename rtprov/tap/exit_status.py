"""Exit statuses: a command that fails ends with one line on standard error and no traceback.

Exit status 1 means a wrong option or a temporary problem (an address in use), 78 (EX_CONFIG) a
configuration that cannot work. Errors during the start reach `sys.excepthook`. Later errors are
passed to `Ending.end`, which stops the reactor, and so all services, first.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO, cast

from twisted.internet import reactor
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from rtprov.errors import ConfigurationError, refusal

_log = Logger()


class Ending:
    """Ends the process of one command with the right line and status.

    `launcher` holds the options of twistd or twist; None if the command runs without either, as in
    tests.
    """

    def __init__(self, command: str, launcher: Mapping[str, Any] | None) -> None:
        self._command = command
        options = launcher or {}
        daemon = not (options.get("nodaemon", True) or options.get("debug", False))
        log_file = options.get("logfile") or "-"
        self._logged_elsewhere = bool(
            daemon or log_file != "-" or options.get("syslog") or options.get("logger")
        )
        self._waiting = _WaitingProcess() if daemon else None
        self._ended = False

    def install(self) -> None:
        """From now on, report configuration errors that end the process as one line. All other
        exceptions keep their tracebacks.
        """
        sys.excepthook = self._on_exception

    def _on_exception(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        # An error with one of twistd's own files: twistd.pid, the log, the working directory.
        if isinstance(error, OSError) and error.filename is not None:
            error = refusal(f"{os.fsdecode(error.filename)}: {error.strerror}", error)
        if isinstance(error, ConfigurationError):
            self._report(error)
            # Raised in an excepthook, SystemExit still sets the interpreter's exit status.
            raise SystemExit(error.exit_status)
        if not isinstance(error, KeyboardInterrupt):  # Python ends the process with SIGINT
            sys.__excepthook__(kind, error, trace)

    def _report(self, error: ConfigurationError) -> None:
        """Write the error to standard error, and to the log unless that is on standard output,
        which an operator sees next to standard error.
        """
        line = f"{self._command}: {error}"
        if self._logged_elsewhere:
            _log.error("{line}", line=line)
        if self._waiting is not None and self._waiting.fail(line, error.exit_status):
            return
        with suppress(OSError):  # the terminal may be closed
            print(line, file=sys.__stderr__, flush=True)

    def end(self, error: ConfigurationError) -> None:
        """Report the error, stop the reactor, and end the process with the error's exit status.

        Does nothing at the second call.
        """
        if self._ended:
            return
        self._ended = True
        self._report(error)
        atexit.register(_exit, error.exit_status)
        cast("Any", reactor).callWhenRunning(_stop)

    def started(self) -> None:
        """Call this once the command has started: twistd's first process stops waiting then."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None


def _stop() -> None:
    with suppress(ReactorNotRunning):  # it is stopping already
        cast("Any", reactor).stop()


def _exit(status: int) -> None:
    """End the process with `status`. twistd offers no other way to set its exit status."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
    os._exit(status)


class _WaitingProcess:
    """Replaces `sys.__stderr__` while twistd starts a daemon.

    twistd's first process waits for the daemon to start. If the daemon fails, twistd writes its own
    shortened text to `sys.__stderr__` and ends with status 1. This object writes the line that the
    daemon sent over a pipe instead, and ends the process with the daemon's status.
    """

    def __init__(self) -> None:
        self._stream = cast("TextIO", sys.__stderr__)
        self._process_id = os.getpid()
        self._reader, self._writer = os.pipe()
        sys.__stderr__ = self  # type: ignore[assignment,misc] # twistd calls only `write`

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def fail(self, line: str, status: int) -> bool:
        """Send the line and the status from the daemon to the waiting process.

        Return False if this process is not the daemon yet.
        """
        if os.getpid() == self._process_id:
            return False
        os.write(self._writer, f"{status} {line}\n".encode("utf-8", "backslashreplace"))
        return True

    def write(self, text: str) -> int:
        """Write `text`, or the daemon's line instead of twistd's. Called in the waiting process."""
        if not text.startswith("An error has occurred"):
            return self._stream.write(text)
        os.close(self._writer)
        # The pipe ends when the daemon has ended.
        with os.fdopen(self._reader, encoding="utf-8") as pipe:
            status, _, line = pipe.read().partition(" ")
        self._stream.write(line or text)
        self._stream.flush()
        os._exit(int(status or 1))

    def close(self) -> None:
        """Restore `sys.__stderr__`. Called in the daemon once it runs."""
        sys.__stderr__ = self._stream  # type: ignore[misc,assignment] # the stream of before
        os.close(self._reader)
        os.close(self._writer)

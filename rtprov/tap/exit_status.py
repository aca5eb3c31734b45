"""How a command that cannot start, or cannot go on, ends: one line on standard error, the right
exit status, no traceback.

Exit status 1 is for a wrong option and for what may pass (an address in use), 78 (EX_CONFIG) for a
configuration that cannot work. What ends the process at its start reaches `sys.excepthook`. What
comes later is passed to `end`, which lets the process stop in good order first."""

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

_log = Logger(namespace="rtprov")


class Ending:
    """The end of one command. `launcher` are the options of twistd or twist, which run it; None
    where nobody does, as in a test.
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
        """Show what ends the process from now on as one line, if it is an operator's mistake;
        anything else keeps its traceback.
        """
        sys.excepthook = self._on_exception

    def _on_exception(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        # twistd's own files: twistd.pid, its log, its folder
        if isinstance(error, OSError) and error.filename is not None:
            error = refusal(f"{os.fsdecode(error.filename)}: {error.strerror}", error)
        if isinstance(error, ConfigurationError):
            self._tell(error)
            # the interpreter heeds that in a hook, and ends with this status
            raise SystemExit(error.exit_status)
        if not isinstance(error, KeyboardInterrupt):  # which ends the process by its signal
            sys.__excepthook__(kind, error, trace)

    def _tell(self, error: ConfigurationError) -> None:
        """Once: where standard output has the log, standard error is shown beside it."""
        line = f"{self._command}: {error}"
        if self._logged_elsewhere:
            _log.error("{line}", line=line)
        if self._waiting is not None and self._waiting.fail(line, error.exit_status):
            return
        with suppress(OSError):  # a terminal that is gone
            print(line, file=sys.__stderr__, flush=True)

    def end(self, error: ConfigurationError) -> None:
        """Say what is wrong, stop the reactor, and have the process end with the error's exit
        status.
        """
        if self._ended:
            return
        self._ended = True
        self._tell(error)
        atexit.register(_exit, error.exit_status)
        cast("Any", reactor).callWhenRunning(_stop)

    def started(self) -> None:
        """The command has started: nobody waits any longer."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None


def _stop() -> None:
    with suppress(ReactorNotRunning):  # it is stopping already
        cast("Any", reactor).stop()


def _exit(status: int) -> None:
    """twistd gives no other way to say with which status its process ends."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
    os._exit(status)


class _WaitingProcess:
    """Takes the place of `sys.__stderr__` where twistd makes a daemon.

    There the first process waits for the daemon to start. If that fails, twistd has it write a text
    of its own, cut short, to `sys.__stderr__`, and end with status 1. This one writes the daemon's
    line instead, and ends with the daemon's status."""

    def __init__(self) -> None:
        self._stream = cast("TextIO", sys.__stderr__)
        self._process_id = os.getpid()
        self._reader, self._writer = os.pipe()
        sys.__stderr__ = self  # type: ignore[assignment,misc] # twistd calls only `write`

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def fail(self, line: str, status: int) -> bool:
        """Called in the daemon: pass the line on. Return False in a process that is no daemon
        yet.
        """
        if os.getpid() == self._process_id:
            return False
        os.write(self._writer, f"{status} {line}\n".encode("utf-8", "backslashreplace"))
        return True

    def write(self, text: str) -> int:
        """Called by twistd in the waiting process."""
        if not text.startswith("An error has occurred"):
            return self._stream.write(text)
        os.close(self._writer)
        # to its end, which comes when the daemon has ended
        with os.fdopen(self._reader, encoding="utf-8") as told:
            status, _, line = told.read().partition(" ")
        self._stream.write(line or text)
        self._stream.flush()
        os._exit(int(status or 1))

    def close(self) -> None:
        """Called in the daemon once it runs."""
        sys.__stderr__ = self._stream  # type: ignore[misc,assignment] # the stream of before
        os.close(self._reader)
        os.close(self._writer)

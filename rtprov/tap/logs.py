"""The log observer under twistd: twistd's destination with lines of `rtprov.tap.log_lines`.

Twisted's own info lines are left out.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    LogLevel,
    PredicateResult,
)
from twisted.python.logfile import LogFile

from rtprov.tap.log_lines import json_lines, text_lines, with_priorities

if TYPE_CHECKING:
    from rtprov.tap.log_lines import LineFormat

TEXT, JSON = "text", "json"


def quiet_observer(
    launcher: Mapping[str, Any],
    *,
    role: str,
    log_format: str,
    environ: Mapping[str, str] = os.environ,
) -> ILogObserver | None:
    """Return the observer for twistd's options `launcher`; None to leave logging to twistd.

    `role` is the command's role, `log_format` is `TEXT` or `JSON`. Under journald, which sets
    ``JOURNAL_STREAM`` in `environ`, lines on standard output begin with their priorities. Raises
    OSError if the log file cannot be opened.
    """
    if launcher.get("logger") is not None or (
        launcher["logfile"] == "-" and not launcher["nodaemon"]
    ):
        return None  # the operator's own observer, or a combination that twistd refuses
    lines: LineFormat = (json_lines if log_format == JSON else text_lines)(role)
    if launcher.get("syslog"):
        from twisted.python.syslog import SyslogObserver  # not on every platform

        target: Any = LegacyLogObserverWrapper(cast("Any", SyslogObserver(launcher["prefix"]).emit))
    elif launcher["nodaemon"] and launcher["logfile"] in (None, "", "-"):
        stdout = sys.stdout
        read_by_journald = "JOURNAL_STREAM" in environ and _may_be_journald(stdout)
        target = FileLogObserver(stdout, with_priorities(lines) if read_by_journald else lines)
    else:
        file = LogFile.fromFullPath(launcher["logfile"] or "twistd.log")
        _rotate_on_signal(file)
        target = FileLogObserver(file, lines)
    return cast("ILogObserver", FilteringLogObserver(target, [cast("Any", _worth_a_line)]))


def _may_be_journald(stream: Any) -> bool:
    """Return whether a stream is a socket or a pipe: children of a service inherit
    ``JOURNAL_STREAM``, but may write to a terminal or a file.
    """
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)


def _rotate_on_signal(file: LogFile) -> None:
    """Start a new log file on SIGUSR1, as twistd does."""
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(
            signal.SIGUSR1,
            lambda *_: cast("IReactorFromThreads", reactor).callFromThread(file.rotate),
        )


def _worth_a_line(event: LogEvent) -> Any:
    """Drop Twisted's own debug and info events, except for the signal that ends the process."""
    namespace = event.get("log_namespace") or ""
    by_twisted = namespace == "log_legacy" or namespace.startswith("twisted.")
    if (
        not by_twisted
        or event.get("log_level") not in (LogLevel.debug, LogLevel.info)
        or event.get("isError")
    ):
        return PredicateResult.maybe
    if (event.get("log_format") or "").startswith("Received SIG"):
        return PredicateResult.maybe
    return PredicateResult.no

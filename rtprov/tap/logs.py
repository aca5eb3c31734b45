"""The log observer under twistd: twistd's destination without Twisted's own info lines."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

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
    formatEventAsClassicLogText,
    formatTime,
)
from twisted.python.logfile import LogFile


def quiet_observer(launcher: Mapping[str, Any]) -> ILogObserver | None:
    """Return the observer for twistd's options `launcher`; None to leave logging to twistd.

    Raises OSError if the log file cannot be opened.
    """
    if launcher.get("logger") is not None or (
        launcher["logfile"] == "-" and not launcher["nodaemon"]
    ):
        return None  # the operator's own observer, or a combination that twistd refuses
    if launcher.get("syslog"):
        from twisted.python.syslog import SyslogObserver  # not on every platform

        target: Any = LegacyLogObserverWrapper(cast("Any", SyslogObserver(launcher["prefix"]).emit))
    elif launcher["nodaemon"] and launcher["logfile"] in (None, "", "-"):
        target = text_observer(sys.stdout)
    else:
        file = LogFile.fromFullPath(launcher["logfile"] or "twistd.log")
        _rotate_on_signal(file)
        target = text_observer(file)
    return cast("ILogObserver", FilteringLogObserver(target, [cast("Any", _worth_a_line)]))


def text_observer(file: Any) -> ILogObserver:
    """Return an observer that writes lines as ``twisted.logger.textFileLogObserver`` does.

    The time in front of a line has no fractions. It is formatted once a second, not for each line:
    that takes a fifth of the time of an audit line.
    """

    def format_event(event: LogEvent) -> str | None:
        return formatEventAsClassicLogText(event, formatTime=_time_of)

    return cast("ILogObserver", FileLogObserver(file, format_event))


def _time_of(when: float | None) -> str:
    return formatTime(when) if when is None else _second(int(when))


_second = lru_cache(maxsize=1)(formatTime)


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

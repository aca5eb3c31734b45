"""All that runs in one process as one service, from its start to its end; stopping in order;
signals.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService, MultiService, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.logger import ILogObserver
from twisted.python.components import Componentized

from rtprov.errors import ConfigurationError, refusal
from rtprov.tap.client_connections import install_names
from rtprov.tap.command_options import CommandOptions
from rtprov.tap.environment_variables import survey
from rtprov.tap.listening import log
from rtprov.tap.logs import quiet_observer
from rtprov.tap.open_files import open_files
from rtprov.tap.options import ALL_NAMES
from rtprov.tap.process import TimeWatch
from rtprov.tap.reloading import Renewal
from rtprov.tap.sharded import Sharded
from rtprov.worker.service import WorkerService

threads = cast("IReactorFromThreads", reactor)


class Closing(Service):
    """Calls something when the process stops."""

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return maybeDeferred(self._close)


class SequentialMultiService(MultiService):
    """Services that start in the order in which they were added, and stop one after the other in
    the reverse one, all of them.
    """

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for each in reversed(list(self)):
            try:
                await maybeDeferred(each.stopService)
            except Exception:
                log.failure("{service} did not stop in good order", service=type(each).__name__)


class Command(SequentialMultiService):
    """All that a command runs. The first SIGTERM or SIGINT stops it, a second one cuts short what
    the first one waits for.

    SIGHUP has the files loaded again that can be replaced while it runs, and never ends a command.
    It runs under twistd, and under twist, which knows of no privileged start."""

    def __init__(self, options: CommandOptions, *services: IService) -> None:
        """Raises `ConfigurationError`."""
        super().__init__()
        self._launcher: Mapping[str, Any] | None = options.parent
        self._ending = options.ending
        self._prepared = False
        check_pid_file(self._launcher)
        _tell_of_environment(options)
        open_files()
        TimeWatch().setServiceParent(self)
        for each in services:
            each.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        """twistd's application takes the log's observer from its components, before the log
        begins.
        """
        if (
            self._launcher is not None
            and "logfile" in self._launcher
            and isinstance(parent, Componentized)
        ):
            observer = quiet_observer(self._launcher)
            if observer is not None:
                parent.setComponent(ILogObserver, observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        self._prepared = True
        super().privilegedStartService()

    def startService(self) -> None:
        install_names()
        if not self._prepared:
            self.privilegedStartService()
        super().startService()
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: threads.callFromThread(self.reload))
        cast("IReactorCore", reactor).callWhenRunning(self._ending.started)

    def reload(self) -> None:
        """Load certificates, sealing keys and tokens again."""
        for each in self:
            if isinstance(each, Renewal):
                each.reload()

    def fail(self, error: ConfigurationError) -> None:
        """Stop the command, which cannot go on as it is configured, and end the process with the
        error's exit status.
        """
        self._ending.end(error)

    def stopService(self) -> Deferred[None]:
        if hasattr(signal, "SIGHUP"):
            # Python's own handlers are gone before its end
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            # Twisted's own handler would only complain that the reactor is stopping already.
            signal.signal(number, lambda *_: threads.callFromThread(self.stop_now))
        return super().stopService()

    def stop_now(self) -> None:
        """Drain no longer."""
        log.warn("told to stop again: nothing is waited for any longer")
        for each in self:
            if isinstance(each, (WorkerService, Sharded)):
                each.stop_now()


def check_pid_file(launcher: Mapping[str, Any] | None) -> None:
    """Raises `ConfigurationError` if twistd will not be able to write its file, which it tries too
    late for one plain line.
    """
    name = (launcher or {}).get("pidfile")
    if not name:
        return
    file = Path(name)
    try:
        new = not file.exists()
        file.open("ab").close()
        if new:
            file.unlink()
    except OSError as error:
        raise refusal(
            f"{file}: cannot write the pid file: {error.strerror}; --pidfile= before the command"
            " does without",
            error,
        ) from None


def _tell_of_environment(options: CommandOptions) -> None:
    """Say which variables have no effect, though their names begin with rtprov."""
    found = survey(
        os.environ, options.command, [option.name for option in options.options], ALL_NAMES
    )
    if found.injected:
        log.info(
            "passed over, as Kubernetes sets them for services: {names}",
            names=", ".join(found.injected),
        )
    for name, nearest in found.unknown:
        log.warn(
            "{name} is set, but no option reads it; the nearest name is {nearest}",
            name=name,
            nearest=nearest,
        )

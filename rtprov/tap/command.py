"""The top-level service of a process: starts and stops all others, and handles signals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService, MultiService, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads, IReactorTime
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from rtprov.errors import ConfigurationError, refusal
from rtprov.tap.client_connections import install_names
from rtprov.tap.command_options import CommandOptions
from rtprov.tap.environment_variables import survey
from rtprov.tap.gc_tuning import tune
from rtprov.tap.listening import Answering
from rtprov.tap.logs import quiet_observer
from rtprov.tap.open_files import open_files
from rtprov.tap.options import ALL_NAMES
from rtprov.tap.process import TimeWatch, watch_lag
from rtprov.tap.process_metrics import process_registry
from rtprov.tap.reloading import Renewal
from rtprov.tap.service_manager import Condition, ServiceManager, notify_socket, watchdog_s
from rtprov.tap.sharded import Sharded
from rtprov.tap.tracing import Tracing, make_tracing, spans_of
from rtprov.tracing.spans import Spans
from rtprov.worker.service import WorkerService

_log = Logger()

threads = cast("IReactorFromThreads", reactor)


class Closing(Service):
    """Calls `close` when the process stops, and waits for the Deferred that it may return."""

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return maybeDeferred(self._close)


class SequentialMultiService(MultiService):
    """Services that start in the order in which they were added, and stop one after the other in
    reverse order. One that fails to stop does not keep the others from stopping.
    """

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for each in reversed(list(self)):
            try:
                await maybeDeferred(each.stopService)
            except Exception:
                _log.failure(
                    "{service} failed to stop; stopping the rest", service=type(each).__name__
                )


class Command(SequentialMultiService):
    """The top-level service of a command.

    The first SIGTERM or SIGINT stops the services and waits for calls to A under way; a second one
    ends that wait. SIGHUP reloads certificates, sealing keys and tokens, and never ends the
    process. `lag` measures how long the reactor is busy. `condition` returns what a service manager
    such as systemd is told about the role. A command runs under twistd, and under twist, which does
    not call `privilegedStartService`."""

    def __init__(self, options: CommandOptions, *services: IService) -> None:
        """Raises `ConfigurationError`."""
        super().__init__()
        self._launcher: Mapping[str, Any] | None = options.parent
        self._ending = options.ending
        self._prepared = False
        self._role = options.command.removeprefix("rtprov-")
        self._log_format: str = options["log-format"]
        self.condition: Callable[[], Condition] = lambda: Condition(True, "running")
        self.lag = watch_lag()
        self.metrics = process_registry(lambda: list(self), lambda: self.lag.longest_s)
        """What ``/metrics`` returns; a command adds the metrics of its roles."""
        self._manager = ServiceManager(
            notify_socket(os.environ),
            watchdog_s(os.environ, os.getpid()),
            condition=lambda: self.condition(),
            clock=cast("IReactorTime", reactor),  # `rtprov.tap.process` makes it monotonic
            monotonic=time.monotonic,
        )
        check_pid_file(self._launcher)
        _log_ineffective_variables(options)
        open_files()
        TimeWatch().setServiceParent(self)
        self.lag.setServiceParent(self)
        self._tunes_gc = not options["no-gc-tuning"]
        for each in services:
            each.setServiceParent(self)

    def trace(self) -> Spans:
        """Return the spans for the command's roles. Call it before the roles are attached: the last
        spans are exported after the roles have stopped.
        """
        tracing = make_tracing(self._role, os.environ)
        if tracing is not None:
            tracing.setServiceParent(self)
        return spans_of(tracing)

    def setServiceParent(self, parent: Any) -> None:
        """Attach this service to twistd's application, and set the application's log observer.

        twistd reads the observer from the application's components before it starts the log.
        """
        if (
            self._launcher is not None
            and "logfile" in self._launcher
            and isinstance(parent, Componentized)
        ):
            observer = quiet_observer(self._launcher, role=self._role, log_format=self._log_format)
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
        if self._tunes_gc:
            tune()
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: threads.callFromThread(self.reload))
        cast("IReactorCore", reactor).callWhenRunning(self._ending.started)
        self._manager.start()

    def reload(self) -> None:
        """Load certificates, sealing keys and tokens again."""
        with self._manager.reloading():
            for each in self:
                if isinstance(each, Renewal):
                    each.reload()

    def fail(self, error: ConfigurationError) -> None:
        """Stop the command because of a configuration error found at run time, and end the process
        with the error's exit status.
        """
        self._ending.end(error)

    def stopService(self) -> Deferred[None]:
        if hasattr(signal, "SIGHUP"):
            # Python removes its handlers before the process ends; SIGHUP would end it then.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            # Twisted's handler would only log that the reactor is stopping already.
            signal.signal(number, lambda *_: threads.callFromThread(self.stop_now))
        stopped = super().stopService()
        self._manager.stopping()
        return stopped.addBoth(self._stopped)

    def _stopped(self, result: Any) -> Any:
        self._manager.stop()
        return result

    def stop_now(self) -> None:
        """Stop without waiting for calls under way, load balancers, or the export of spans."""
        _log.warn("second stop signal: stopping without waiting for calls under way")
        for each in self:
            if isinstance(each, (WorkerService, Sharded, Answering, Tracing)):
                each.stop_now()


def check_pid_file(launcher: Mapping[str, Any] | None) -> None:
    """Raise `ConfigurationError` if twistd cannot write its pid file.

    twistd itself tries that so late that the error is a traceback.
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
            f"{file}: cannot write the pid file: {error.strerror}; put --pidfile= before the"
            " command to run without one",
            error,
        ) from None


def _log_ineffective_variables(options: CommandOptions) -> None:
    """Log the variables that begin with ``RTPROV_`` but have no effect."""
    found = survey(
        os.environ, options.command, [option.name for option in options.options], ALL_NAMES
    )
    if found.injected:
        _log.info(
            "ignoring variables that Kubernetes sets for services: {names}",
            names=", ".join(found.injected),
        )
    for name, nearest in found.unknown:
        _log.warn(
            "{name} is set, but no option reads it; the nearest name is {nearest}",
            name=name,
            nearest=nearest,
        )

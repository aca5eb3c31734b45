"""What a verb gets from its process: the reactor, the network, the environment and the terminal.

Tests replace `Process` by one in memory.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define, field, frozen

from rtprov.cli.failures import Status, VerbFailed

if TYPE_CHECKING:
    from treq.client import HTTPClient
    from twisted.internet.interfaces import IReactorTime

    from rtprov.cli.profile import Profile

INTERRUPTED = 130  # 128 + SIGINT, as shells show it


class Network(Protocol):
    """The reactor of a verb, and its HTTP client."""

    @property
    def clock(self) -> IReactorTime:
        """The reactor as a clock."""

    @property
    def reactor(self) -> Any:
        """The reactor."""

    def http(self, profile: Profile) -> tuple[HTTPClient, Callable[[BaseException], str]]:
        """Return a client for a front end, and a function that explains its errors.

        Raises `VerbFailed` if a file of the profile is invalid.
        """


Work = Callable[[Network], Coroutine[Any, Any, int]]


class Processes(Protocol):
    """Runs the work of a verb."""

    environ: Mapping[str, str]
    home: Path

    def now(self) -> float:
        """Return the time of day, in seconds since the epoch."""

    def run(self, work: Work) -> int:
        """Run `work` to its end; return the exit status that it returns."""


@frozen
class RealNetwork:
    """TCP and TLS, on the process's reactor."""

    reactor: Any

    @property
    def clock(self) -> IReactorTime:
        """The reactor as a clock."""
        clock: IReactorTime = self.reactor
        return clock

    def http(self, profile: Profile) -> tuple[HTTPClient, Callable[[BaseException], str]]:
        """See `Network.http`."""
        from rtprov.cli.https import client_for

        return client_for(profile, self.reactor, time.time)


@define
class Process:
    """The real process."""

    environ: Mapping[str, str] = field(factory=lambda: os.environ)
    home: Path = field(factory=lambda: Path(os.path.expanduser("~")))  # noqa: PTH111 - never raises

    def now(self) -> float:
        """See `Processes.now`."""
        return time.time()

    def run(self, work: Work) -> int:
        """Run the reactor until `work` is done.

        Ctrl-C cancels `work`, which cleans up, and the status is 130.
        """
        from twisted.internet.defer import CancelledError, Deferred
        from twisted.internet.task import deferLater, react

        async def main(reactor: Any) -> None:
            # The reactor handles Ctrl-C from its first turn on. The work draws on the terminal.
            await deferLater(reactor, 0)
            running = Deferred.fromCoroutine(work(RealNetwork(reactor)))
            interrupted = []

            def stop() -> Deferred[None] | None:
                if running.called:
                    return None
                interrupted.append(True)
                ended: Deferred[None] = Deferred()
                running.addBoth(_pass, ended)
                running.cancel()
                return ended

            reactor.addSystemEventTrigger("before", "shutdown", stop)
            try:
                status = await running
            except VerbFailed as error:
                if not interrupted:
                    complain(str(error))
                status = error.status
            except BrokenPipeError:  # head(1) has read enough
                drop_output()
                status = Status.DONE
            except CancelledError:
                if not interrupted:
                    raise
                status = INTERRUPTED
            raise SystemExit(INTERRUPTED if interrupted else int(status))

        try:
            react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else Status.TASKS_FAILED
        except KeyboardInterrupt:  # before the first turn
            return INTERRUPTED
        return Status.DONE


def _pass(result: Any, ended: Any) -> Any:
    ended.callback(None)
    return result


def drop_output() -> None:
    """Let Python flush standard output at its end although nobody reads it any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(text: str) -> None:
    """Write a line to standard error."""
    print(f"rtprov: {text}", file=sys.stderr)  # noqa: T201 - a command's answer

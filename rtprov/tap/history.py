"""The history of ended tasks, with the thread that reads and writes it."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import cast

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from rtprov.history.history import History
from rtprov.tap.process import wall_clock


class ThreadedHistory(History):
    """A history with a thread of its own."""

    def __init__(self, directory: Path, days: int) -> None:
        self._pool = ThreadPool(1, 1, name="rtprov-history")
        super().__init__(
            directory,
            days,
            run=partial(deferToThreadPool, cast("IReactorFromThreads", reactor), self._pool),
            monotonic=time.monotonic,
            clock=cast("IReactorTime", reactor),  # `rtprov.tap.process` makes it monotonic
            wall_clock=wall_clock,
        )

    def startService(self) -> None:
        # Only after the folder is open: a running thread would keep a process that failed to start
        # from ending.
        self._pool.start()
        super().startService()

    async def close(self) -> None:
        """Write what is left, and end the thread."""
        try:
            await super().close()
        finally:
            self._pool.stop()


def make_history(directory: Path | None, days: int) -> History | None:
    """Return the history in `directory` of the last `days` days; None if there is no directory."""
    return None if directory is None else ThreadedHistory(directory, days)

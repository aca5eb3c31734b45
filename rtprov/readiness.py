"""Whether a process is ready for work, as load balancers and supervisors ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from rtprov.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

REMEMBERED_S = 1.0
UNEXPECTED = "Not ready: an unexpected error"


class Readiness:
    """Checks readiness with `probe`, a coroutine function that raises `NotReady`.

    All requests within a second share one result. An unexpected error of `probe` is logged, and the
    process is not ready.
    """

    _log = Logger()

    def __init__(self, probe: Callable[[], Coroutine[Any, Any, None]], clock: IReactorTime) -> None:
        self._probe = probe
        self._clock = clock
        self._looked_at = -REMEMBERED_S
        self._reason: str | None = None
        self._stopping = False
        self._waiters: list[Deferred[None]] | None = None

    async def check(self) -> None:
        """Return if the process is ready, else raise `NotReady`."""
        if self._stopping:
            raise NotReady("Not ready: this process is stopping")
        # The clock may be set back.
        if not 0 <= self._clock.seconds() - self._looked_at < REMEMBERED_S:
            waiter: Deferred[None] = Deferred()
            if self._waiters is None:
                self._waiters = [waiter]
                Deferred.fromCoroutine(self._probe()).addCallbacks(self._looked, self._failed)
            else:
                self._waiters.append(waiter)
            await waiter
        if self._reason is not None:
            raise NotReady(self._reason)

    def stop(self) -> None:
        """From now on the process is not ready, so that load balancers stop using it."""
        self._stopping = True

    def _failed(self, reason: Failure) -> None:
        if reason.check(NotReady):
            self._looked(None, str(reason.value))
        else:
            if self._reason != UNEXPECTED:  # once, not each second
                self._log.failure("not ready: the check of this process's readiness failed", reason)
            self._looked(None, UNEXPECTED)

    def _looked(self, _: None, reason: str | None = None) -> None:
        self._looked_at, self._reason = self._clock.seconds(), reason
        waiters, self._waiters = self._waiters or [], None
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)


def always_ready(clock: IReactorTime) -> Readiness:
    """Return the readiness of a process that depends on nothing."""

    async def probe() -> None:
        await succeed(None)

    return Readiness(probe, clock)

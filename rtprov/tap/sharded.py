"""A front end or a worker that learns from the broker how many shards there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtprov.frontend.service import FrontendService
from rtprov.worker.service import WorkerService

log = Logger(namespace="rtprov")

Role = TypeVar("Role", FrontendService, WorkerService)


class Sharded(MultiService, Generic[Role]):
    """Runs the role that `make` makes for a number of shards: the one `given`, or 1 until the
    broker says that it holds another one.

    Then, and when that number is changed later, the role is made anew, before it has done anything
    with the wrong one. `on_made` is called with each new one; `role` is the present one."""

    def __init__(self, make: Callable[[int], Role], given: int | None, clock: IReactorTime) -> None:
        """Raises `ConfigurationError`."""
        super().__init__()
        self._make: Callable[[int], Role] = make
        self._clock = clock
        self._ending: list[Deferred[object]] = []
        self.on_made: Callable[[Role], None] = lambda role: None
        self.role: Role = self._begin(given or 1)

    def _begin(self, count: int) -> Role:
        role: Role = self._make(count)
        role.shard_count.on_other = lambda other: self._soon(role, other)
        role.setServiceParent(self)
        return role

    def _soon(self, role: Role, count: int) -> None:
        """Not at once: the role is in the middle of connecting."""
        if role is self.role:
            self._clock.callLater(0, self._replace, role, count)

    def _replace(self, role: Role, count: int) -> None:
        if role is not self.role or not self.running:
            return
        log.info("the broker holds {count} shards: beginning anew with that number", count=count)
        ending = maybeDeferred(role.disownServiceParent)
        ending.addErrback(
            lambda reason: log.failure(
                "the role for the former number of shards did not stop in good order", reason
            )
        )
        self._ending.append(ending)
        self.role = self._begin(count)
        self.on_made(self.role)

    def stop_now(self) -> None:
        """Cut short what a stop waits for."""
        if isinstance(self.role, WorkerService):
            self.role.stop_now()

    def stopService(self) -> Deferred[Any]:
        stopping = maybeDeferred(super().stopService)
        return gatherResults([stopping, *self._ending], consumeErrors=True)

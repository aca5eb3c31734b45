"""A front end or a worker that reads the number of shards from the broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtprov.frontend.service import FrontendService
from rtprov.worker.service import WorkerService

_log = Logger()

Role = TypeVar("Role", FrontendService, WorkerService)


class Sharded(MultiService, Generic[Role]):
    """Runs the role that `make` creates for a number of shards.

    The number is `given`, or else 1 until the broker reports another one. Without `given`, the role
    is stopped and created again each time the broker reports another number. A role does nothing
    with a wrong number, because its connection checks the number first. `role` is the current role;
    `on_made` is called with each new one.
    """

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
        """Replace the role in the next reactor turn: now it is in the middle of connecting."""
        if role is self.role:
            self._clock.callLater(0, self._replace, role, count)

    def _replace(self, role: Role, count: int) -> None:
        if role is not self.role or not self.running:
            return
        _log.info("the broker has {count} shards; restarting with that number", count=count)
        ending = maybeDeferred(role.disownServiceParent)
        ending.addErrback(
            lambda reason: _log.failure(
                "the part of this process for the previous number of shards failed to stop", reason
            )
        )
        self._ending.append(ending)
        self.role = self._begin(count)
        self.on_made(self.role)

    def stop_now(self) -> None:
        """Stop without waiting for calls under way."""
        if isinstance(self.role, WorkerService):
            self.role.stop_now()

    def stopService(self) -> Deferred[Any]:
        stopping = maybeDeferred(super().stopService)
        return gatherResults([stopping, *self._ending], consumeErrors=True)

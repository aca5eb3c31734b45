"""The time within which a request must be answered, counted from its arrival."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rtprov.http.request import arrived_at

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.iweb import IRequest

T = TypeVar("T")

DEADLINE_S = 4.5  # the contract promises an answer within 5 s, even if the broker does not answer


def deadline_of(request: IRequest) -> float:
    """Return the monotonic time by which the request must be answered."""
    return arrived_at(request) + DEADLINE_S


def with_deadline(deadline: float, step: Deferred[T], clock: IReactorTime) -> Deferred[T]:
    """Let `step` fail with Twisted's `TimeoutError` if it has not fired at the deadline."""
    return step.addTimeout(max(0.0, deadline - clock.seconds()), clock)

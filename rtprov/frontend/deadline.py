"""The time within which a request must be answered, counted from its arrival."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.python.failure import Failure

from rtprov.http.request import arrived_at

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.web.iweb import IRequest

T = TypeVar("T")

DEADLINE_S = 4.5  # the contract promises an answer within 5 s, even if the broker does not answer


def deadline_of(request: IRequest) -> float:
    """Return the monotonic time by which the request must be answered."""
    return arrived_at(request) + DEADLINE_S


class Deadlines:
    """Cancels the steps of requests that have not ended at their deadlines.

    Nearly all of thousands of steps a second end in time, so a timer for each would be wasted. One
    timer runs, for the oldest step. That is right while deadlines come in order, as they do unless
    a request has waited; a step with an earlier deadline than the last one gets its own timer.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._steps: dict[Deferred[Any], float] = {}  # by deadline, since that is their order
        self._latest = 0.0
        self._timer: IDelayedCall | None = None

    def limit(self, step: Deferred[T], deadline: float) -> Deferred[T]:
        """Let `step` fail with Twisted's `TimeoutError` if it has not fired at `deadline`.

        `deadline` is a time of the clock, in seconds. Returns `step`.
        """
        if self._steps and deadline < self._latest:
            return step.addTimeout(max(0.0, deadline - self._clock.seconds()), self._clock)
        self._steps[step] = self._latest = deadline
        if self._timer is None:
            self._set_timer(deadline)
        return step.addBoth(self._ended, step)

    def _ended(self, result: Any, step: Deferred[Any]) -> Any:
        late = self._steps.pop(step, None) is None
        if not self._steps and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if late and isinstance(result, Failure) and result.check(CancelledError):
            raise TimeoutError("The deadline of the request has passed")
        return result

    def _set_timer(self, deadline: float) -> None:
        delay_s = max(0.0, deadline - self._clock.seconds())
        self._timer = self._clock.callLater(delay_s, self._cancel_late)

    def _cancel_late(self) -> None:
        self._timer = None
        now, late = self._clock.seconds(), []
        for step, deadline in self._steps.items():
            if deadline > now:
                self._set_timer(deadline)
                break
            late.append(step)
        for step in late:
            if self._steps.pop(step, None) is not None:  # an earlier one may have ended it
                step.cancel()

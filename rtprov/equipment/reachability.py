"""Whether A, the service, can be reached: a state that is entered and left, for the log. Pure
bookkeeping; time is an argument, in seconds.

One call without an answer says little. Three in a row, with no answer to anybody in between, say
that A cannot be reached, if no connection came about. If A took the order and closed the
connection, the device may be the reason: then three different devices in a row count. Any answer
ends the state. An A that comes and goes is told of once a minute at most, unless ten calls in a row
had no answer."""

from __future__ import annotations

UNANSWERED_LIMIT = 3
UNANSWERED_LIMIT_SOON_AFTER = 10
SOON_AFTER_S = 60.0
MAX_REASONS = 5  # of one outage, that are told


class Reachability:
    """What is known of A from the calls of this process. It can be reached, as far as is known at
    the start.
    """

    def __init__(self) -> None:
        self._unconnected = 0  # calls in a row to which no connection came about
        self._devices: set[str] = set()  # in a row, whose connection was closed without an answer
        # told of the present outage; None while A can be reached
        self._reasons: set[str] | None = None
        self._reported_at: float | None = None

    def answered(self) -> bool:
        """A has answered, whatever it said. Return whether that is news: it could not be reached
        before.
        """
        was_out, self._reasons = self._reasons is not None, None
        self._unconnected = 0
        self._devices.clear()
        return was_out

    def unanswered(self, device: str, reason: str, *, connected: bool, now: float) -> bool:
        """A call got no answer; `connected` says whether A had the order by then. Return whether
        the reason is to be told.
        """
        if self._reasons is not None:
            news = reason not in self._reasons and len(self._reasons) < MAX_REASONS
            if news:
                self._reasons.add(reason)
            return news
        if connected:
            self._devices.add(device)
        else:
            self._unconnected += 1
        soon = self._reported_at is not None and now - self._reported_at < SOON_AFTER_S
        if self._unconnected + len(self._devices) < (
            UNANSWERED_LIMIT_SOON_AFTER if soon else UNANSWERED_LIMIT
        ):
            return False
        self._reasons, self._reported_at = {reason}, now
        return True

"""Decides when to log that A cannot be reached, and that it can be reached again.

One call without an answer means little. A counts as unreachable after three calls in a row that
could not open a connection, without an answer to any other call in between. If A received the order
and then closed the connection, the device may be the cause. So several such calls for one device
count only once. After any answer, A counts as reachable again.

If A fails and recovers repeatedly, an outage within a minute of the previous report is reported
only after ten calls without an answer.
"""

from __future__ import annotations

UNANSWERED_LIMIT = 3
UNANSWERED_LIMIT_SOON_AFTER = 10
SOON_AFTER_S = 60.0
MAX_REASONS = 5  # logged reasons of one outage


class Reachability:
    """The state of A, as seen by the calls of this process. At the start A counts as reachable.

    Times are arguments, in seconds.
    """

    def __init__(self) -> None:
        self._unconnected = 0  # calls in a row without a connection
        self._devices: set[str] = set()  # in a row, closed without an answer
        # The logged reasons of the current outage; None while A can be reached.
        self._reasons: set[str] | None = None
        self._reported_at: float | None = None

    def answered(self) -> bool:
        """Note that A has answered. Return whether it was unreachable before."""
        was_out, self._reasons = self._reasons is not None, None
        self._unconnected = 0
        self._devices.clear()
        return was_out

    def unanswered(self, device: str, reason: str, *, connected: bool, now: float) -> bool:
        """Note a call without an answer. Return whether to log the reason.

        `connected` says whether A had received the order.
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

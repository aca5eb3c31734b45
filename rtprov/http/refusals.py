"""Requests that are refused for who sends them (401, 403) or for how many there are (429): each
leaves a line in the audit trail, until there are too many."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

STATUSES = (401, 403, 429)
MAX_LINES_PER_S = 10

_log = Logger(namespace="rtprov.audit")

# Only what looks like one of our paths is shown: others may hold anything, a token too.
_PATH = re.compile(
    rb"/api/v1/equipment/cpe/[A-Za-z0-9]{6,64}(?:/task(?:/[0-9a-f]{32})?)?|/api/v1/tasks/[0-9a-f]{32}|(?:/[a-z0-9.]{1,16}){1,4}"
)
_METHOD = re.compile(rb"[A-Z]{1,10}")


class Refusals:
    """Those of one site. `clock` carries the timer; a second begins with the first refusal in
    it.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._until = 0.0  # the end of the second that counts
        self._lines = 0  # in it
        self._suppressed: Counter[int] = Counter()  # by status

    def note(self, status: int, method: bytes, path: bytes, caller: str, why: str) -> None:
        """Write the line, or count it: the count follows at the end of the second."""
        now = self._clock.seconds()
        if not self._until - 1.0 <= now < self._until and not self._suppressed:
            self._until, self._lines = now + 1.0, 0
        if self._lines < MAX_LINES_PER_S:
            self._lines += 1
            _log.info(
                "refused with {status}: {method} {path} from {caller}: {why}",
                status=status,
                method=method.decode("ascii") if _METHOD.fullmatch(method) else "?",
                path=path.decode("ascii") if _PATH.fullmatch(path) else "(another path)",
                caller=caller,
                why=why,
            )
            return
        if not self._suppressed:
            self._clock.callLater(max(0.0, self._until - now), self._log_suppressed)
        self._suppressed[status] += 1

    def _log_suppressed(self) -> None:
        suppressed, self._suppressed = self._suppressed, Counter()
        counts = ", ".join(f"{count} with {status}" for status, count in sorted(suppressed.items()))
        _log.info(
            "refused {n} more requests within a second: {counts}",
            n=suppressed.total(),
            counts=counts,
        )

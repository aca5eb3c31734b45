"""Audit lines for requests refused because of their caller (401, 403) or its rate (429).

At most `MAX_LINES_PER_S` lines are written per second. Further refusals are counted; the count is
logged at the end of the second.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

STATUSES = (401, 403, 429)
MAX_LINES_PER_S = 10
MAX_SHOWN = 256  # characters of a device's id, which may have any length

_log = Logger(namespace="rtprov.audit")

# Only known forms of paths are logged. Others may contain anything, even a token.
_PATH = re.compile(
    rb"/api/v1/equipment/cpe/(?P<equipment>[A-Za-z0-9]{6,})(?:/task(?:/(?P<task>[0-9a-f]{32}))?)?"
    rb"|/api/v1/tasks/(?P<any_task>[0-9a-f]{32})|(?:/[a-z0-9.]{1,16}){1,4}"
)
_METHOD = re.compile(rb"[A-Z]{1,10}")


class Refusals:
    """Writes the audit lines for the refusals of one site.

    `clock` runs the timer. A second begins with the first refusal in it.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._until = 0.0  # the end of the current second
        self._lines = 0  # lines written in it
        self._suppressed: Counter[int] = Counter()  # refusals without a line, by status

    def note(self, status: int, method: bytes, path: bytes, caller: str | None, why: str) -> None:
        """Log one refusal, or only count it if this second already has `MAX_LINES_PER_S` lines.

        `caller` is None if it is not known.
        """
        now = self._clock.seconds()
        if not self._until - 1.0 <= now < self._until and not self._suppressed:
            self._until, self._lines = now + 1.0, 0
        if self._lines < MAX_LINES_PER_S:
            self._lines += 1
            shown, equipment, task = _parts(path)
            _log.info(
                "refused with {status}: {method} {path} from {who}: {why}",
                event="request.refused",
                status=status,
                method=method.decode("ascii") if _METHOD.fullmatch(method) else "?",
                path=shown,
                equipment_id=equipment,
                task_id=task,
                caller=caller,
                who=caller or "an unknown caller",
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
            event="request.more_refused",
            n=suppressed.total(),
            counts=counts,
        )


def _parts(path: bytes) -> tuple[str, str | None, str | None]:
    """Return what is shown of a path, and the device and the task that it names."""
    match = _PATH.fullmatch(path)
    if match is None:
        return "(another path)", None, None
    shown = path.decode("ascii")
    parts = {name: value.decode("ascii") for name, value in match.groupdict(b"").items()}
    equipment = parts["equipment"]
    if len(equipment) > MAX_SHOWN:
        cut = equipment[:MAX_SHOWN] + "…"
        shown, equipment = shown.replace(equipment, cut), cut
    return shown, equipment or None, parts["task"] or parts["any_task"] or None

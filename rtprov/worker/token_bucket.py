"""A limit on the rate of calls (token bucket). The time is an argument."""

from __future__ import annotations

# The bucket holds the tokens of this many seconds, and at least one token.
ROOM_S = 0.1
ROUNDING = 1e-9


class TokenBucket:
    """Gives `per_second` tokens a second; None means no limit."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._room = 1.0 if per_second is None else max(1.0, ROOM_S * per_second)
        self._tokens = self._room
        self._filled_at: float | None = None

    def wait_s(self, now: float) -> float:
        """Return the seconds until there is a token; 0 if there is one now."""
        if self._per_second is None:
            return 0.0
        if self._filled_at is not None:
            passed_s = max(0.0, now - self._filled_at)
            self._tokens = min(self._room, self._tokens + passed_s * self._per_second)
        self._filled_at = now
        missing = 1.0 - self._tokens
        return missing / self._per_second if missing > ROUNDING else 0.0

    def take(self) -> None:
        """Take a token. Call it only after `wait_s` has returned 0."""
        if self._per_second is not None:
            self._tokens -= 1.0

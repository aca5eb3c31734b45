"""What a client's request says in its headers: ``Idempotency-Key`` and ``Prefer``."""

from __future__ import annotations

import re

from rtprov.errors import InvalidHeader

MAX_WAIT_S = 60
ANSWER_EARLY_S = 0.5  # at most, before a client's time is over: the answer takes time to arrive
LAST_QUESTION_S = 0.5  # at most, before that: for the worker to tell the task's state once more
MAX_KEY_LENGTH = 255
_KEY = re.compile(f"[!-~]{{1,{MAX_KEY_LENGTH}}}")


def idempotency_key(values: list[str]) -> str | None:
    """The key that the ``Idempotency-Key`` fields give; None where there is none. Raises
    `InvalidHeader`.
    """
    if not values:
        return None
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise InvalidHeader(
            f"Idempotency-Key: expected one value of 1 to {MAX_KEY_LENGTH} visible ASCII characters"
        )
    return values[0]


# A quoted string, whose closing quote is optional so that a match never fails, nor backtracks; a
# comma; or what is neither.
_PIECES = re.compile(r'"(?:[^"\\]+|\\.)*"?|,|[^",]+', re.DOTALL)


def preferred_wait_s(values: list[str]) -> int:
    """How long a client would wait for an answer, by its ``Prefer`` fields (RFC 7240 §4.3), at most
    60 s; 0 where it does not say.

    Of a preference that comes twice the first counts (§2).
    """
    preferences = [""]
    for piece in _PIECES.findall(",".join(values)):
        if piece == ",":
            preferences.append("")
        else:
            preferences[-1] += piece
    for preference in preferences:
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            digits = value.strip().strip('"')
            return min(MAX_WAIT_S, int(digits[:9])) if digits.isascii() and digits.isdigit() else 0
    return 0


def answered_within_s(wait_s: int) -> float:
    """Seconds within which to answer a client that waits for `wait_s`, which is an upper bound (RFC
    7240 §4.3).
    """
    return wait_s - min(ANSWER_EARLY_S, wait_s / 8)


def waits_s(wait_s: int) -> float:
    """Seconds after which such a client stops waiting for the task's end, and the worker is asked
    for the state.
    """
    return answered_within_s(wait_s) - min(LAST_QUESTION_S, wait_s / 8)

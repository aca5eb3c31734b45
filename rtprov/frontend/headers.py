"""Parse the request headers ``Idempotency-Key`` and ``Prefer: wait`` (RFC 7240)."""

from __future__ import annotations

import re

from rtprov.errors import InvalidHeader

MAX_WAIT_S = 60
# The answer is sent this long before the client's wait ends, because it takes time to arrive.
# Before that, a worker is asked for the task's state once more, and has `LAST_QUESTION_S` to
# answer. Both times are shorter if the client waits for less than 4 s.
ANSWER_EARLY_S = 0.5
LAST_QUESTION_S = 0.5
MAX_KEY_LENGTH = 255
_KEY = re.compile(f"[!-~]{{1,{MAX_KEY_LENGTH}}}")


def idempotency_key(values: list[str]) -> str | None:
    """Return the key from the request's ``Idempotency-Key`` fields, or None if there are none.

    Raises `InvalidHeader` if there are several fields, or if the key is not 1 to 255 visible ASCII
    characters.
    """
    if not values:
        return None
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise InvalidHeader(
            f"Idempotency-Key: expected one value of 1 to {MAX_KEY_LENGTH} visible ASCII characters"
        )
    return values[0]


# A quoted string, a comma, or any other text. The closing quote is optional, so a match never
# fails and never backtracks.
_PIECES = re.compile(r'"(?:[^"\\]+|\\.)*"?|,|[^",]+', re.DOTALL)


def preferred_wait_s(values: list[str]) -> int:
    """Return how many seconds the client wants to wait for an answer: 0 to 60.

    `values` are the request's ``Prefer`` fields (RFC 7240 §4.3). 0 means that there is no valid
    ``wait``. If a preference is repeated, the first one counts (§2).
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
            if not digits.isascii() or not digits.isdigit():
                return 0
            return min(MAX_WAIT_S, int(digits.lstrip("0")[:9] or "0"))
    return 0


def answered_within_s(wait_s: int) -> float:
    """Return the seconds within which a client that waits for `wait_s` must be answered.

    The result is a little less than `wait_s`, because ``wait`` is an upper bound (RFC 7240 §4.3).
    """
    return wait_s - min(ANSWER_EARLY_S, wait_s / 8)


def wait_for_end_s(wait_s: int) -> float:
    """Return the seconds after which the front end stops waiting for the task's end.

    It then asks a worker for the task's state, and answers with that.
    """
    return answered_within_s(wait_s) - min(LAST_QUESTION_S, wait_s / 8)

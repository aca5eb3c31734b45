"""Pauses between attempts of an operation that fails: exponential back-off, with or without jitter.

Callers keep the number of failures and set the limits. Pure functions; all times are in seconds.
"""

from __future__ import annotations

import random

# Keeps the power within the range of a float; each limit is reached far earlier.
_MAX_DOUBLINGS = 64


def backoff_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """Return the pause after `failures` failures in succession (from 1), without jitter.

    It is `first_s` after the first failure, doubles with each further one, and is at most
    `longest_s`.
    """
    return min(longest_s, first_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))


def jittered_backoff_s(
    failures: int, rng: random.Random, *, first_s: float, longest_s: float
) -> float:
    """Return the pause as `backoff_s` does, reduced by a random part of up to a half.

    The jitter keeps many clients that failed at the same time from trying again at the same time.
    """
    pause_s = backoff_s(failures, first_s=first_s, longest_s=longest_s)
    return pause_s * (0.5 + rng.random() / 2)

"""How long a run of the tests may take: the quick tests, the usual ones, or all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

# Set by .ci/full: more seeds, all mutations, and chaos runs of five hundred tasks.
FULL = os.environ.get("RTPROV_FULL") == "1"

# Set by "tox -e quick": few seeds, no RabbitMQ, no test marked `slow`.
QUICK = os.environ.get("RTPROV_QUICK") == "1"

Test = TypeVar("Test", bound=Callable[..., Any])


def slow(test: Test) -> Test:
    """Mark a test method that takes seconds of CPU time, so that "tox -e quick" skips it."""
    if QUICK:
        test.skip = "takes seconds; tox runs it"  # type: ignore[attr-defined] # read by trial
    return test

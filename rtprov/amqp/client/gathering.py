"""Wait for several Deferreds at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

T = TypeVar("T")


async def gather(deferreds: Iterable[Deferred[T]]) -> list[T]:
    """Wait for all `deferreds` and return their results in order.

    If one fails, raises its error at once, not wrapped in FirstError. Later errors of the others
    are discarded.
    """
    try:
        return await gatherResults(list(deferreds), consumeErrors=True)
    except FirstError as error:
        raise error.subFailure.value from None  # type: ignore[misc] # a Failure has a value here

"""Waiting for several Deferreds at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

T = TypeVar("T")


async def gather(deferreds: Iterable[Deferred[T]]) -> list[T]:
    """Wait for all; return their results in order. Raises the error of the first that fails, not
    wrapped; the others are consumed.
    """
    try:
        return await gatherResults(list(deferreds), consumeErrors=True)
    except FirstError as error:
        raise error.subFailure.value from None  # type: ignore[misc] # a failure has a value

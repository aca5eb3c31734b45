"""Concurrency limits for batches of asynchronous work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

T = TypeVar("T")


async def for_each(
    items: Iterable[T], work: Callable[[T], Coroutine[Any, Any, None]], *, at_once: int
) -> None:
    """Await `work` for each item, started in order, at most `at_once` at the same time.

    Raises the first error, after cancelling the rest."""
    remaining = iter(items)

    async def run() -> None:
        for item in remaining:
            await work(item)

    running = [Deferred.fromCoroutine(run()) for _ in range(at_once)]
    try:
        await gatherResults(running, consumeErrors=True)
    except FirstError as error:
        for each in running:
            each.cancel()
        error.subFailure.raiseException()

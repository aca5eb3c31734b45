"""Much work, a little of it at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

T = TypeVar("T")


async def for_each(
    items: Iterable[T], work: Callable[[T], Coroutine[Any, Any, None]], *, at_once: int
) -> None:
    """Do `work` for each item, begun in their order, `at_once` of it under way. Raises the first
    error; the rest is cancelled then."""
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

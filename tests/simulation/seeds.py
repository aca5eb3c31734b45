"""Running many seeds, in as many processes as there are cores."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from twisted.logger import globalLogBeginner

from tests.simulation.mutations import MUTATIONS
from tests.simulation.run import Result, simulate

CHUNK = 25


def simulate_many(seeds: Iterable[int]) -> Iterator[Result]:
    """Run these seeds; yield their results in order."""
    with _pool() as pool:
        yield from pool.map(simulate, seeds, chunksize=CHUNK)


def catch_all(mutations: Iterable[str], within: int) -> Mapping[str, Result | None]:
    """Return, by mutation, the first result among seeds 0 to `within` - 1 that fails with the
    mutation and not without it, or None if there is none.
    """
    names = list(mutations)
    with _pool() as pool:
        return dict(zip(names, pool.map(_catch, names, [within] * len(names)), strict=True))


def _catch(name: str, within: int) -> Result | None:
    for seed in range(within):
        with MUTATIONS[name].switched_on():
            result = simulate(seed)
        if result.broken and not simulate(seed).broken:
            return result
    return None


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        os.cpu_count() or 1, mp_context=get_context("spawn"), initializer=_begin
    )


def _begin() -> None:
    quiet()
    gc.freeze()


def quiet() -> None:
    """Discard all log events except for the simulation's own observer."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)

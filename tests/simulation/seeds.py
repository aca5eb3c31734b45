"""Many seeds, in as many processes as there are cores."""

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
    """Run these seeds; yield how each went, in their order."""
    with _pool() as pool:
        yield from pool.map(simulate, seeds, chunksize=CHUNK)


def catch_all(mutations: Iterable[str], within: int) -> Mapping[str, Result | None]:
    """How each mutation is caught by the first of so many seeds; None where it is by none."""
    names = list(mutations)
    with _pool() as pool:
        return dict(zip(names, pool.map(_catch, names, [within] * len(names)), strict=True))


def _catch(name: str, within: int) -> Result | None:
    with MUTATIONS[name].switched_on():
        for seed in range(within):
            result = simulate(seed)
            if result.broken:
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
    """Have nothing logged but what the simulation looks at."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)

"""Many seeds, in as many processes as there are cores."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from twisted.logger import globalLogBeginner

from tests.simulation.run import Result, simulate

CHUNK = 25


def simulate_many(seeds: Iterable[int]) -> Iterator[Result]:
    """Run these seeds; yield how each went, in their order."""
    jobs = os.cpu_count() or 1
    if jobs == 1:
        yield from (_one(seed) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin) as pool:
        yield from pool.map(_one, seeds, chunksize=CHUNK)


def _begin() -> None:
    quiet()
    gc.freeze()


def quiet() -> None:
    """Have nothing logged but what the simulation looks at."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)


def _one(seed: int) -> Result:
    return simulate(seed)

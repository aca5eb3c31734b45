"""The command line of the simulation. The package's docstring shows how to use it."""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext

from tests.simulation.mutations import MUTATIONS
from tests.simulation.run import simulate
from tests.simulation.seeds import quiet, simulate_many


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Simulate the whole system, seed by seed."
    )
    parser.add_argument("--seed", type=int, help="one seed, with its trace")
    parser.add_argument("--seeds", type=int, default=2000, metavar="N", help="how many seeds")
    parser.add_argument(
        "--from", type=int, default=0, dest="first", metavar="SEED", help="the first of them"
    )
    parser.add_argument(
        "--mutation",
        choices=sorted(MUTATIONS),
        metavar="NAME",
        help="with this bug put in, for --seed alone",
    )
    options = parser.parse_args(arguments)
    quiet()
    if options.seed is not None:
        with MUTATIONS[options.mutation].switched_on() if options.mutation else nullcontext():
            result = simulate(options.seed, live=True)
        print(result.report() if result.broken else f"seed {result.seed} is well")
        return 1 if result.broken else 0
    return _many(range(options.first, options.first + options.seeds))


def _many(seeds: range) -> int:
    failed, began = 0, time.monotonic()
    for count, result in enumerate(simulate_many(seeds), 1):
        if result.broken:
            failed += 1
            print(result.report(), flush=True)
        if count % 500 == 0 or count == len(seeds):
            print(f"{count} seeds, {failed} failed, {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

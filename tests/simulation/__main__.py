"""The command: see the package."""

from __future__ import annotations

import argparse
import sys
import time

from twisted.logger import globalLogBeginner

from tests.simulation.run import simulate


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate the whole system, seed by seed.")
    parser.add_argument("--seed", type=int, help="one seed, with its trace")
    parser.add_argument("--seeds", type=int, default=2000, metavar="N", help="how many seeds")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="SEED", help="the first of them")
    options = parser.parse_args(arguments)
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    if options.seed is not None:
        result = simulate(options.seed, live=True)
        print(result.report() if result.broken else f"seed {result.seed} is well: {result.digest[:16]}")
        return 1 if result.broken else 0
    failed, began = 0, time.monotonic()
    for seed in range(options.first, options.first + options.seeds):
        result = simulate(seed)
        if result.broken:
            failed += 1
            print(result.report(), flush=True)
        elif seed % 100 == 99:
            print(f"{seed + 1 - options.first} seeds, {failed} failed, {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

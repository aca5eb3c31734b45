"""Measure rtprov beside a service that does the same with FastAPI and aio-pika.

Run ``python -m bench.compare --peer-python .venv-peers/bin/python [--rounds 3] [--phases post]``.

The contenders take turns within each phase, so that whatever else the machine does affects both.
Each is started anew for each measurement, with its own certificates, ports, service A, and virtual
host of a RabbitMQ that is started for the whole run. The table has the medians, the median of the
ratios of the rounds, and whether the goal is reached.

It needs RabbitMQ and ``wrk`` (Debian's packages ``rabbitmq-server`` and ``wrk``), and a Python
environment with the packages in ``bench/peers/requirements.txt``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet import asyncioreactor, task
from twisted.internet.defer import Deferred

from bench.client import Refused
from bench.contenders import CONTENDERS, running
from bench.phases import Figures, Size, phases
from tests.support.rabbitmq import RabbitMQ, rabbitmq

PEER = "fastapi-aiopika"
MORE_IS_BETTER = ("per_s", "tasks_per_s", "calls_open")


@frozen
class Goal:
    """`ratio` is the limit of rtprov's figure divided by the peer's; `most` that of the figure."""

    ratio: float | None = None
    most: float | None = None

    def reached(self, figure: str, ratio: float | None, value: float) -> bool:
        if self.most is not None:
            return value <= self.most
        assert self.ratio is not None
        if ratio is None:
            return False
        return ratio >= self.ratio if figure in MORE_IS_BETTER else ratio <= self.ratio

    def text(self, figure: str) -> str:
        if self.most is not None:
            return f"≤ {self.most:g}"
        return f"{'≥' if figure in MORE_IS_BETTER else '≤'} {self.ratio:g}x"


GOALS: dict[str, dict[str, dict[str, Goal]]] = {
    "rtprov": {
        "post": {"per_s": Goal(1.9), "cpu_ms": Goal(0.4), "p99_ms": Goal(0.6)},
        "get_running": {"per_s": Goal(1.35), "cpu_ms": Goal(0.7), "p99_ms": Goal(1.0)},
        "get_done": {"per_s": Goal(2.5), "cpu_ms": Goal(0.4), "p99_ms": Goal(1.0)},
        "e2e": {"tasks_per_s": Goal(1.7), "cpu_ms": Goal(0.5), "broker_cpu_ms": Goal(1.0)},
        "overhead": {"p99_ms": Goal(1.0), "p50_ms": Goal(1.05), "cpu_ms": Goal(0.75)},
        "inflight": {"overhead_s": Goal(0.7), "posted_s": Goal(0.6), "kib_a_call": Goal(most=54)},
    },
    "rtprov-embedded": {
        "post": {"per_s": Goal(1.7), "p99_ms": Goal(1.5)},
        "e2e": {"tasks_per_s": Goal(1.2)},
        "inflight": {"posted_s": Goal(most=12)},
    },
}

# The events of a journal matter only where tasks run to their end.
GOALS["rtprov-batches"] = {
    phase: GOALS["rtprov"][phase] for phase in ("e2e", "overhead", "inflight")
}


@frozen
class Run:
    contender: str
    phase: str
    round: int
    figures: Figures

    def of(self, contender: str, phase: str) -> bool:
        return (self.contender, self.phase) == (contender, phase)


async def measure(name: str, phase_name: str, node: RabbitMQ, options: Any) -> Figures:
    """Return the figures of one contender in one phase. Raises `Refused`."""
    size = Size(options.seconds, options.tasks, options.calls, options.call_s)
    phase = phases(size)[phase_name]
    loop = asyncio.get_running_loop()
    broker = await Deferred.fromCoroutine(node.add_vhost()).asFuture(loop)
    broker_pids = [int((node.folder / "pid").read_text())]
    async with running(
        name, broker, broker_pids, phase.delay_s, phase.concurrency, options.peer_python
    ) as contender:
        figures = await phase.run(contender, size)
        if "Traceback (" in contender.log():
            raise Refused(f"a traceback in the log:\n{contender.log()[-4000:]}")
    return figures


async def compare(options: Any) -> Sequence[Run]:
    loop = asyncio.get_running_loop()
    node = await Deferred.fromCoroutine(rabbitmq()).asFuture(loop)
    runs: list[Run] = []
    for phase in options.phases:
        for number in range(options.rounds):
            for name in [*options.contenders, PEER]:
                if name != PEER and phase not in GOALS[name]:
                    continue
                try:
                    figures = await measure(name, phase, node, options)
                except (Refused, OSError, asyncio.TimeoutError) as error:
                    print(f"{name}, {phase}, round {number + 1}: {error!r}", file=sys.stderr)
                    continue
                runs.append(Run(name, phase, number, figures))
                text = json.dumps({key: round(value, 3) for key, value in figures.items()})
                print(f"{name}, {phase}, round {number + 1}: {text}", file=sys.stderr, flush=True)
    return runs


def table(runs: Sequence[Run]) -> list[str]:
    """Return the lines of a table in Markdown: medians, ratios, goals and verdicts."""
    lines = [
        "| contender | phase | figure | median | peer's | ratio | goal | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run.contender for run in runs if run.contender != PEER):
        for phase in dict.fromkeys(run.phase for run in runs if run.contender == name):
            ours, theirs = (
                {
                    run.round: run.figures
                    for run in runs
                    if (run.contender, run.phase) == (who, phase)
                }
                for who in (name, PEER)
            )
            for figure in next(iter(ours.values())):
                lines.append(_row(name, phase, figure, ours, theirs))
    return lines


def _row(
    name: str, phase: str, figure: str, ours: dict[int, Figures], theirs: dict[int, Figures]
) -> str:
    median = statistics.median(each[figure] for each in ours.values())
    peers = statistics.median(each[figure] for each in theirs.values()) if theirs else None
    ratios = [
        ours[number][figure] / theirs[number][figure]
        for number in ours
        if theirs.get(number, {}).get(figure)
    ]
    ratio = statistics.median(ratios) if ratios else None
    goal = GOALS[name][phase].get(figure)
    cells = [
        name,
        phase,
        figure,
        f"{median:.4g}",
        "" if peers is None else f"{peers:.4g}",
        "" if ratio is None else f"{ratio:.2f}",
        "" if goal is None else goal.text(figure),
        "" if goal is None else "yes" if goal.reached(figure, ratio, median) else "no",
    ]
    return f"| {' | '.join(cells)} |"


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__.partition("\n")[0]
    )
    names = [name for name in CONTENDERS if name != PEER]
    every = list(GOALS["rtprov"])
    parser.add_argument("--peer-python", required=True, help="Python with the peers' packages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--phases", type=lambda text: text.split(","), default=every)
    parser.add_argument("--contenders", type=lambda text: text.split(","), default=names)
    parser.add_argument("--seconds", type=int, default=8, help="of load in post and get_*")
    parser.add_argument("--tasks", type=int, default=3000, help="tasks of e2e")
    parser.add_argument("--calls", type=int, default=5000, help="calls open at once in inflight")
    parser.add_argument("--call-s", type=float, default=20.0, help="A's delay in inflight")
    options = parser.parse_args(arguments)
    options.peer_python = str(Path(options.peer_python).absolute())
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed (apt-get install wrk)")
    unknown = {*options.phases} - {*every} | {*options.contenders} - {*names}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    # The client is asyncio's; RabbitMQ is started with Twisted.
    asyncioreactor.install()
    task.react(_main, (options,))


async def _main(reactor: Any, options: argparse.Namespace) -> None:
    await task.deferLater(reactor, 0)  # the event loop runs from the next turn on
    running_all = asyncio.ensure_future(compare(options))
    print("\n".join(table(await Deferred.fromFuture(running_all))))


if __name__ == "__main__":
    run()

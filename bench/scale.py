"""Measure what a process and a shard cost: 1, 2 and 4 shards, with a worker and a front end each.

Run ``python -m bench.scale --peer-python .venv-peers/bin/python [--counts 1,2,4] [--tasks 3000]``.

For each number, front ends, workers, service A and a virtual host of RabbitMQ are started anew, and
tasks are posted to all front ends in turn. All of it runs on one machine, so the tasks per second
do not grow with the number; CPU and memory of each process carry over to several machines. It needs
what `bench.compare` needs, except for ``wrk``.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import ssl
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from twisted.internet import asyncioreactor, task
from twisted.internet.defer import Deferred

from bench.client import Client
from bench.contenders import (
    HERE,
    TWISTD,
    Processes,
    Running,
    cpu_s,
    environment_of,
    free_ports,
    processes,
)
from bench.phases import ended, posted
from rtprov.security.development import make_development_set
from tests.support.rabbitmq import RabbitMQ, rabbitmq

IDLE_S = 5.0
START_S = 60.0
CONCURRENCY = 200


class Rotating(Client):
    """Sends each request to the next of several front ends."""

    def __init__(self, ports: Sequence[int], tls: ssl.SSLContext) -> None:
        super().__init__(ports[0], tls)
        self._clients = [Client(port, tls) for port in ports]
        self._next = cycle(self._clients)

    async def post(self, path: str) -> str:
        return await next(self._next).post(path)

    async def code(self, path: str) -> int:
        return await next(self._next).code(path)

    def close(self) -> None:
        for client in self._clients:
            client.close()


def pss_mb(pid: int) -> float:
    """Return a process's memory in MB; pages that several processes share count in part."""
    found = re.search(r"\nPss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())
    return int(found[1]) / 1024 if found else 0.0


async def measure(count: int, node: RabbitMQ, options: Any) -> dict[str, float]:
    """Return the figures of one number of shards, by name."""
    loop = asyncio.get_running_loop()
    broker = await Deferred.fromCoroutine(node.add_vhost()).asFuture(loop)
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        folder = Path(text)
        make_development_set(folder)
        tls = ssl.create_default_context(cafile=folder / "ca.pem")
        a_port, *ports = free_ports(1 + count)
        with processes(folder, environment_of({})) as made:
            service_a = [options.peer_python, f"{HERE / 'peers' / 'service_a.py'}"]
            made.start([*service_a, f"{a_port}", f"{folder}", f"{options.call_s}"])
            pids = _start(made, broker, ports, a_port)
            client = Rotating(ports, tls)
            contender = Running("rtprov", folder, client, None, {}, options.call_s)
            await _ready(contender, 8 * count)
            figures = await _idle(pids)
            pids["RabbitMQ"] = [int((node.folder / "pid").read_text())]
            figures |= await _load(contender, pids, options.tasks)
            client.close()
    return figures


def _start(made: Processes, broker: str, ports: Sequence[int], a_port: int) -> dict[str, list[int]]:
    """Start a front end for each port and a worker for each of as many shards."""
    common = ["--broker", broker, "--certs", f"{made.folder}", "--shards", f"{len(ports)}"]
    worker = [*TWISTD, "rtprov-worker", *common, "--equipment-url", f"https://localhost:{a_port}"]
    worker += ["--concurrency", f"{CONCURRENCY}"]
    front_end = [*TWISTD, "rtprov-frontend", *common, "--listen"]
    return {
        "front end": [
            made.start([*front_end, f"tcp:{port}:interface=127.0.0.1"]) for port in ports
        ],
        "worker": [made.start([*worker, "--shard", f"{shard}"]) for shard in range(len(ports))],
    }


async def _idle(pids: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return what a process of each role takes when it has nothing to do."""
    await asyncio.sleep(IDLE_S)
    before = {role: sum(map(cpu_s, each)) for role, each in pids.items()}
    await asyncio.sleep(IDLE_S)
    figures = {}
    for role, each in pids.items():
        figures[f"{role}: MB"] = sum(map(pss_mb, each)) / len(each)
        used = (sum(map(cpu_s, each)) - before[role]) / len(each)
        figures[f"{role}: ms/s, idle"] = 1000 * used / IDLE_S
    return figures


async def _load(
    contender: Running, pids: Mapping[str, Sequence[int]], tasks: int
) -> dict[str, float]:
    """Return how fast tasks are carried out, and the CPU of each role in ms for each task."""
    before = {role: sum(map(cpu_s, each)) for role, each in pids.items()}
    start = time.monotonic()
    await ended(contender, await posted(contender, tasks))
    figures = {"tasks/s": tasks / (time.monotonic() - start)}
    for role, each in pids.items():
        figures[f"{role}: ms a task"] = 1000 * (sum(map(cpu_s, each)) - before[role]) / tasks
    return figures


async def _ready(contender: Running, orders: int) -> None:
    """Wait until tasks of all shards end, whichever front end accepts them."""
    until = time.monotonic() + START_S
    while True:
        try:
            await ended(contender, await posted(contender, orders, "FAST"))
        except (OSError, ValueError) as error:
            if time.monotonic() > until:
                raise SystemExit(f"{error!r}\n{contender.log()[-4000:]}") from None
            await asyncio.sleep(0.1)
        else:
            return


async def _main(reactor: Any, options: argparse.Namespace) -> None:
    await task.deferLater(reactor, 0)  # the event loop runs from the next turn on

    async def work() -> None:
        loop = asyncio.get_running_loop()
        node = await Deferred.fromCoroutine(rabbitmq()).asFuture(loop)
        found = {}
        for count in options.counts:
            found[count] = await measure(count, node, options)
            print(f"{count}: {found[count]}", file=sys.stderr, flush=True)
        print("| each process, and all tasks | " + " | ".join(map(str, found)) + " |")
        print("|---" * (1 + len(found)) + "|")
        for name in next(iter(found.values())):
            print(
                f"| {name} | " + " | ".join(f"{each[name]:.3g}" for each in found.values()) + " |"
            )

    await Deferred.fromFuture(asyncio.ensure_future(work()))


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--peer-python", required=True, help="Python with the peers' packages")
    parser.add_argument(
        "--counts", type=lambda text: [*map(int, text.split(","))], default=[1, 2, 4]
    )
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--call-s", type=float, default=0.05, help="A's delay")
    options = parser.parse_args(arguments)
    options.peer_python = str(Path(options.peer_python).absolute())
    asyncioreactor.install()
    task.react(_main, (options,))


if __name__ == "__main__":
    run()

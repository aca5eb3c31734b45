"""Measure CPU time and memory for tasks, end to end.

Run ``python -m bench.tasks [--tasks 5000] [--clients 50] [--delay 1]``.

The benchmark starts the stub, the embedded broker, the worker and the front end as separate
processes. Concurrent clients post tasks, each for another device, and poll each status until it is
final. The benchmark prints for each process the CPU time per task, its share of the total, and the
memory per pending call to A.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from treq.client import HTTPClient
from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers

from rtprov.equipment.client import BytesBody
from rtprov.security.certificates import load_trust_root
from rtprov.security.development import make_development_set

T = TypeVar("T")

TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
BODY = (
    b'{"timeoutInSeconds": 14, "parameters": [{"username": "admin"}, {"password": "admin"},'
    b' {"vlan": 534}]}'
)
TICKS = os.sysconf("SC_CLK_TCK")


@define
class Role:
    """A running command of rtprov, such as the worker, with its CPU time and memory."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    before_s: float = 0.0
    resident_before: int = 0
    resident_most: int = 0

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def resident_kib(self) -> int:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) if found else 0

    def wait_for(self, pattern: str) -> str:
        """Wait until the log matches `pattern`. Return the first group of the match.

        Raises SystemExit if the process ends before.
        """
        while not (found := re.search(pattern, self.log.read_text())):
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended:\n{self.log.read_text()}")
            time.sleep(0.05)
        return found[1]


@contextmanager
def running(folder: Path, command: str, *arguments: str) -> Iterator[Role]:
    """Run a command of rtprov in `folder`, and stop it at the end."""
    log = folder / f"{command}.log"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*TWISTD, command, *arguments],
            cwd=folder,
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        yield Role(command, process, log)
    finally:
        process.terminate()
        process.wait()


@define
class Load:
    """The requests of the clients: posts tasks and polls their statuses."""

    http: HTTPClient
    url: str
    paths: list[str] = field(factory=list)

    async def post(self, number: int) -> None:
        headers = Headers({"Content-Type": ["application/json"]})
        url = f"{self.url}/api/v1/equipment/cpe/DEVICE{number:07}"
        response = await self.http.post(url, data=BytesBody(BODY), headers=headers)
        await response.content()
        if response.code != 200:
            raise SystemExit(f"a POST was answered {response.code}")
        self.paths.append(response.headers.getRawHeaders("Location")[0])

    async def get(self, path: str) -> str:
        response = await self.http.get(self.url + path)
        text: str = await response.text()
        return text


async def by_clients(items: Sequence[T], work: Callable[[T], Any], clients: int) -> float:
    """Call `work` with each item, in `clients` concurrent clients. Return the seconds needed."""
    waiting, start = iter(items), time.perf_counter()

    async def client() -> None:
        for item in waiting:
            await work(item)

    await gatherResults([Deferred.fromCoroutine(client()) for _ in range(clients)])
    return time.perf_counter() - start


async def main(reactor: Any, options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_development_set(folder / "certs")
        any_port = ("--listen", "tcp:0:interface=127.0.0.1")
        stub = stack.enter_context(
            running(folder, "rtprov-stub", *any_port, "--delay", str(options.delay))
        )
        broker = stack.enter_context(running(folder, "rtprov-broker", *any_port))
        port = broker.wait_for(r"broker listens on 127.0.0.1:([0-9]+)")
        url = f"amqp://guest:guest@127.0.0.1:{port}/"
        equipment = f"https://localhost:{stub.wait_for(r'listens on 127.0.0.1:([0-9]+)')}"
        there = (
            "--broker",
            url,
            "--equipment-url",
            equipment,
            "--concurrency",
            str(options.concurrency),
        )
        worker = stack.enter_context(running(folder, "rtprov-worker", *there))
        worker.wait_for("(worker: connected)")
        front = stack.enter_context(running(folder, "rtprov-frontend", *any_port, "--broker", url))
        front.wait_for("(ready; try)")
        await measure(reactor, options, [front, broker, worker, stub], folder)


async def measure(
    reactor: Any, options: argparse.Namespace, roles: list[Role], folder: Path
) -> None:
    port = roles[0].wait_for(r"listens on 127.0.0.1:([0-9]+)")
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = options.clients
    policy = BrowserLikePolicyForHTTPS(load_trust_root(folder / "certs" / "ca.pem"))
    load = Load(HTTPClient(Agent(reactor, policy, pool=pool)), f"https://localhost:{port}")
    await load.get("/warm-up")
    for role in roles:
        role.before_s, role.resident_before = role.cpu_s, role.resident_kib
    posting_s = await by_clients(range(options.tasks), load.post, options.clients)
    for role in roles:
        role.resident_most = role.resident_kib
    start = time.perf_counter()
    polls = 0

    async def until_final(path: str) -> None:
        nonlocal polls
        while "still running" in await load.get(path):
            polls += 1

    await by_clients(load.paths, until_final, options.clients)
    asking_s = time.perf_counter() - start
    await pool.closeCachedConnections()
    report(options, roles, posting_s, polls + options.tasks, asking_s)


def report(
    options: argparse.Namespace, roles: list[Role], posting_s: float, polls: int, asking_s: float
) -> None:
    print(
        f"{options.tasks} tasks: {options.tasks / posting_s:.0f} POSTs per second, then"
        f" {polls / asking_s:.0f} GETs per second"
    )
    costs = [role.cpu_s - role.before_s for role in roles]
    under_way = min(options.tasks, options.concurrency)
    print(f"{'':18}{'CPU ms per task':>16}{'share':>8}{'KiB per pending call':>24}")
    for role, cost in zip(roles, costs, strict=True):
        each = 1000 * cost / options.tasks
        memory = (role.resident_most - role.resident_before) / under_way
        print(f"{role.name:18}{each:>16.2f}{cost / sum(costs):>8.0%}{memory:>24.1f}")


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.tasks", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--tasks", type=int, default=5000, help="number of tasks")
    parser.add_argument("--clients", type=int, default=50, help="concurrent requests")
    parser.add_argument("--concurrency", type=int, default=5000, help="the worker's --concurrency")
    parser.add_argument("--delay", type=float, default=1.0, help="the stub's delay, in seconds")
    task.react(main, (parser.parse_args(arguments),))


if __name__ == "__main__":
    run()

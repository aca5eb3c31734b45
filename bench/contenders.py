"""The services that `bench.compare` measures: how each is started, watched and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import define, field, frozen

from bench.client import Client
from rtprov.security.development import make_development_set

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
START_S = 60.0
STOP_S = 5.0


@frozen
class Setting:
    """What a contender is told. `peer_python` is the Python that has the peers' packages."""

    folder: Path
    broker: str
    port: int
    a_port: int
    spare_port: int
    delay_s: float
    concurrency: int
    peer_python: str


def rtprov(s: Setting) -> list[list[str]]:
    common = ["--broker", s.broker, "--certs", f"{s.folder}"]
    return [
        [*TWISTD, "rtprov-frontend", *common, "--listen", f"tcp:{s.port}:interface=127.0.0.1"],
        [
            *TWISTD,
            "rtprov-worker",
            *common,
            "--equipment-url",
            f"https://localhost:{s.a_port}",
            "--concurrency",
            f"{s.concurrency}",
        ],
    ]


def rtprov_batches(s: Setting) -> list[list[str]]:
    front_end, worker = rtprov(s)
    return [front_end, [*worker, "--batch-events"]]


def rtprov_embedded(s: Setting) -> list[list[str]]:
    options = {
        "certs": s.folder,
        "state": s.folder / "state",
        "port": s.port,
        "stub-port": s.a_port,
        "broker-port": s.spare_port,
        "stub-delay": s.delay_s,
        "concurrency": s.concurrency,
    }
    return [[*TWISTD, "rtprov", *(f"--{name}={value}" for name, value in options.items())]]


def fastapi_aiopika(s: Setting) -> list[list[str]]:
    folder = HERE / "peers" / "fastapi_aiopika"
    uvicorn = {
        "app-dir": folder,
        "host": "127.0.0.1",
        "port": s.port,
        "ssl-certfile": s.folder / "frontend.pem",
        "ssl-keyfile": s.folder / "frontend.key",
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "timeout-keep-alive": 60,
        "backlog": 4096,
        "log-level": "warning",
    }
    options = [f"--{name}={value}" for name, value in uvicorn.items()]
    front = [s.peer_python, "-m", "uvicorn", "front:app", "--no-access-log", *options]
    return [front, [s.peer_python, f"{folder / 'worker.py'}"]]


CONTENDERS = {
    "rtprov": rtprov,
    "rtprov-batches": rtprov_batches,
    "rtprov-embedded": rtprov_embedded,
    "fastapi-aiopika": fastapi_aiopika,
}
OWN_A = ("rtprov-embedded",)


@define
class Running:
    """A contender that runs. `groups` are the ids of processes: "contender", "a" and "broker"."""

    name: str
    folder: Path
    client: Client
    a: Client | None
    groups: dict[str, list[int]]
    delay_s: float
    posted: int = 0

    async def post(self, prefix: str = "TASK") -> str:
        """Post an order for another device; return the path of its task."""
        self.posted += 1
        return await self.client.post(f"/api/v1/equipment/cpe/{prefix}{self.posted:08}")

    def usage(self) -> dict[str, float]:
        """Return the CPU seconds of each group, and the resident memory of the contender in KiB."""
        found = {name: sum(map(cpu_s, pids)) for name, pids in self.groups.items()}
        return {**found, "resident_kib": sum(map(resident_kib, self.groups["contender"]))}

    def log(self) -> str:
        return "".join(file.read_text(errors="replace") for file in self.folder.glob("*.log"))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in made]


@define
class Processes:
    """Processes with a log each, which are stopped together."""

    folder: Path
    environment: Mapping[str, str]
    started: list[subprocess.Popen[bytes]] = field(factory=list)

    def start(self, argv: Sequence[str]) -> int:
        with (self.folder / f"{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                argv, cwd=self.folder, env=dict(self.environment), stdout=log, stderr=log
            )
        self.started.append(process)
        return process.pid

    @property
    def ended(self) -> bool:
        return any(each.poll() is not None for each in self.started)

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for each in self.started:
                each.send_signal(number)
            until = time.monotonic() + STOP_S
            while time.monotonic() < until and any(each.poll() is None for each in self.started):
                time.sleep(0.05)


def environment_of(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the processes: this one's, without options of rtprov."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RTPROV_")}
    return {**kept, "PYTHONPATH": f"{HERE.parent}", **settings}


@contextlib.contextmanager
def processes(folder: Path, environment: Mapping[str, str]) -> Iterator[Processes]:
    made = Processes(folder, environment)
    try:
        yield made
    finally:
        made.stop()


@contextlib.asynccontextmanager
async def running(
    name: str, broker: str, broker_pids: list[int], delay_s: float, concurrency: int, python: str
) -> AsyncIterator[Running]:
    """Start a contender with certificates, ports and a service A of its own.

    `broker` is the URL of an empty virtual host. `python` has the peers' packages. Raises
    SystemExit if the contender does not start.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        folder = Path(text)
        make_development_set(folder)
        port, a_port, spare = free_ports(3)
        setting = Setting(folder, broker, port, a_port, spare, delay_s, concurrency, python)
        environment = environment_of(
            {
                "BROKER": broker,
                "A_URL": f"https://localhost:{a_port}",
                "CA": f"{folder / 'ca.pem'}",
                "CONCURRENCY": f"{concurrency}",
            }
        )
        tls = ssl.create_default_context(cafile=folder / "ca.pem")
        with processes(folder, environment) as made:
            a = []
            if name not in OWN_A:
                service_a = [python, f"{HERE / 'peers' / 'service_a.py'}"]
                a.append(made.start([*service_a, f"{a_port}", f"{folder}", f"{delay_s}"]))
            pids = [made.start(argv) for argv in CONTENDERS[name](setting)]
            contender = Running(
                name,
                folder,
                Client(port, tls),
                Client(a_port, tls) if a else None,
                {"contender": pids, "a": a, "broker": broker_pids},
                delay_s,
            )
            await _answering(contender, made)
            yield contender
            contender.client.close()


async def _answering(contender: Running, made: Processes) -> None:
    """Wait until a task can be posted and asked about."""
    until = time.monotonic() + START_S
    while True:
        try:
            await contender.client.code(await contender.post("FAST"))
        except (OSError, ValueError) as error:
            if made.ended or time.monotonic() > until:
                raise SystemExit(
                    f"{contender.name}: {error!r}\n{contender.log()[-4000:]}"
                ) from None
            await asyncio.sleep(0.05)
        else:
            return

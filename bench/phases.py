"""What `bench.compare` measures. Each phase gets a contender that was just started."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from attrs import frozen

from bench.client import Refused
from bench.contenders import HERE, Running

T = TypeVar("T")
Figures = dict[str, float]

CONNECTIONS = 32
WARM_UP_S = 2
BEGUN_S = 60.0
LIMIT_S = 300.0


@frozen
class Size:
    """How much is measured."""

    seconds: int = 8
    tasks: int = 3000
    calls: int = 5000
    call_s: float = 20.0


async def many(count: int, one: Callable[[int], Awaitable[T]], width: int = CONNECTIONS) -> list[T]:
    """Return the results of `one` for each number, `width` of them at the same time."""
    results: dict[int, T] = {}
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            results[number] = await one(number)

    await asyncio.gather(*(lane() for _ in range(width)))
    return [results[number] for number in range(count)]


async def posted(contender: Running, count: int, prefix: str = "TASK") -> list[str]:
    return await many(count, lambda _: contender.post(prefix))


async def asked(contender: Running, paths: Sequence[str]) -> list[int]:
    return await many(len(paths), lambda number: contender.client.code(paths[number]))


async def ended(contender: Running, paths: Sequence[str]) -> float:
    """Wait until all tasks are completed; return the time at which they were.

    Asks for a few tasks until these are completed, and only then for all. Raises `Refused` if one
    fails or does not end.
    """
    until, left = time.monotonic() + LIMIT_S, list(paths)
    while left:
        for path in [*left[-3:], *random.sample(left, min(5, len(left)))]:
            while await contender.client.code(path) == 204:
                if time.monotonic() > until:
                    raise Refused(f"{len(left)} tasks did not end")
                await asyncio.sleep(0.05)
        seen = time.monotonic()
        codes = await asked(contender, left)
        if 500 in codes:
            raise Refused(f"{codes.count(500)} tasks failed")
        left = [path for path, code in zip(left, codes, strict=True) if code == 204]
    return seen


async def wrk(contender: Running, seconds: int, *arguments: str) -> Figures:
    """Send as many requests as possible on 32 connections, after a warm-up."""
    for last_s in (WARM_UP_S, seconds):
        before = contender.usage()
        process = await asyncio.create_subprocess_exec(
            *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{last_s}", "--timeout", "10s"),
            *("-s", str(HERE / "load.lua"), f"https://localhost:{contender.client.port}", "--"),
            *(argument.replace("TAG", secrets.token_hex(4)) for argument in arguments),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    found = json.loads(output.decode().strip().splitlines()[-1])
    if found["refused"] or found["broken"]:
        raise Refused(f"wrk: {found}")
    cpu_s = contender.usage()["contender"] - before["contender"]
    return {
        "per_s": found["requests"] / found["seconds"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "cpu_ms": 1000 * cpu_s / found["requests"],
    }


async def post(contender: Running, size: Size) -> Figures:
    """Accept orders: A takes a minute, so nearly nothing else happens."""
    await posted(contender, 100, "FAST")
    return await wrk(contender, size.seconds, "post", "TAG")


async def _gets(contender: Running, size: Size, paths: list[str], code: int) -> Figures:
    file = contender.folder / "paths"
    random.shuffle(paths)
    file.write_text("".join(f"{path}\n" for path in paths))
    figures = await wrk(contender, size.seconds, "get", str(file))
    if {*await asked(contender, paths[:100])} != {code}:
        raise Refused(f"the tasks were not all in the state {code}")
    return figures


async def get_running(contender: Running, size: Size) -> Figures:
    """Ask for 500 tasks that run, once their calls to A have begun."""
    paths = await posted(contender, 500)
    until = time.monotonic() + BEGUN_S
    while contender.a is not None and time.monotonic() < until:
        if (await contender.a.document("/stats"))["now"] == len(paths):
            break
        await asyncio.sleep(0.2)
    await asyncio.sleep(2)
    return await _gets(contender, size, paths, 204)


async def get_done(contender: Running, size: Size) -> Figures:
    """Ask for 2,000 tasks that are completed."""
    paths: list[str] = []
    for _ in range(10):  # in portions, since this is no measurement of a burst
        paths += await posted(contender, 200, "FAST")
        await ended(contender, paths[-200:])
    return await _gets(contender, size, paths, 200)


async def bulk(contender: Running, count: int) -> Figures:
    """Post tasks as fast as possible, and wait until all are completed."""
    await ended(contender, await posted(contender, 100, "FAST"))
    before, start = contender.usage(), time.monotonic()
    most_kib = before["resident_kib"]

    async def watch() -> None:
        nonlocal most_kib
        while True:
            most_kib = max(most_kib, contender.usage()["resident_kib"])
            await asyncio.sleep(0.5)

    watching = asyncio.ensure_future(watch())
    paths = await posted(contender, count)
    posted_s = time.monotonic() - start
    end = await ended(contender, paths)
    watching.cancel()
    after = contender.usage()
    stats = {"most": count} if contender.a is None else await contender.a.document("/stats")
    return {
        "tasks_per_s": count / (end - start),
        "cpu_ms": 1000 * (after["contender"] - before["contender"]) / count,
        "broker_cpu_ms": 1000 * (after["broker"] - before["broker"]) / count,
        "posted_s": posted_s,
        "overhead_s": end - start - contender.delay_s,
        "calls_open": stats["most"],
        "kib_a_call": (most_kib - before["resident_kib"]) / stats["most"],
    }


async def e2e(contender: Running, size: Size) -> Figures:
    """Whole tasks, with 200 calls to A at the same time."""
    return await bulk(contender, size.tasks)


async def inflight(contender: Running, size: Size) -> Figures:
    """All calls to A open at the same time."""
    return await bulk(contender, size.calls)


async def overhead(contender: Running, size: Size) -> Figures:
    """50 tasks a second: the time from POST to completed, beyond A's delay, of every fifth."""
    await ended(contender, await posted(contender, 100, "FAST"))
    count, rate = 1000, 50
    beyond_s: list[float] = []
    before, start = contender.usage(), time.monotonic()

    async def one(number: int) -> None:
        await asyncio.sleep(start + number / rate - time.monotonic())
        sent = time.monotonic()
        path = await contender.post()
        if number % 5:
            return
        due = sent + contender.delay_s
        await asyncio.sleep(max(0.0, due - time.monotonic()) + random.random() / 50)
        asked = due
        while await contender.client.code(path) == 204:
            asked = time.monotonic()
            await asyncio.sleep(0.02)
        beyond_s.append((asked + time.monotonic()) / 2 - due)

    await asyncio.gather(*map(one, range(count)))
    beyond_s.sort()
    cpu_s = contender.usage()["contender"] - before["contender"]
    return {
        "p50_ms": 1000 * beyond_s[len(beyond_s) // 2],
        "p99_ms": 1000 * beyond_s[len(beyond_s) * 99 // 100],
        "cpu_ms": 1000 * cpu_s / count,
    }


@frozen
class Phase:
    """How a phase is run: A's delay in seconds, and the worker's limit of calls."""

    run: Callable[[Running, Size], Awaitable[Figures]]
    delay_s: float
    concurrency: int


def phases(size: Size) -> dict[str, Phase]:
    return {
        "post": Phase(post, 60.0, 500),
        "get_running": Phase(get_running, 120.0, 500),
        "get_done": Phase(get_done, 0.05, 500),
        "e2e": Phase(e2e, 0.05, 200),
        "overhead": Phase(overhead, 0.5, 500),
        "inflight": Phase(inflight, size.call_s, size.calls),
    }

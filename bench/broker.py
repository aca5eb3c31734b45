"""Compare the embedded broker with RabbitMQ, with the same client.

Run ``python -m bench.broker [--seconds 3] [--bytes 600]``.

The brokers are the embedded broker in memory, the embedded broker with SQLite, and RabbitMQ if it
is installed. Each runs in a process of its own. The figures are:

- publishes per second: persistent messages to a quorum queue, at most 200 without a confirm,
- deliveries per second: prefetch 200, each message acknowledged,
- the median round trip of a request with direct reply-to.

Each figure is printed with its ratio to that of RabbitMQ.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen
from pamqp.commands import Basic
from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SkipTest

from rtprov.amqp.client.consumer import consume
from rtprov.amqp.client.delivery import Delivery
from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.rpc import RpcClient, serve
from rtprov.amqp.client.url import BrokerUrl
from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.storage.memory import MemoryStorage
from rtprov.broker.storage.sqlite import SqliteStorage
from tests.support.rabbitmq import start_rabbitmq

UNDER_WAY = 200
ROUND_TRIPS = 1000
PERSISTENT = Basic.Properties(delivery_mode=2)
QUORUM = {"x-queue-type": "quorum"}


@frozen
class Figures:
    """The figures of one broker; `rpc_ms` is a median."""

    publishes_s: float
    deliveries_s: float
    rpc_ms: float


async def connect(reactor: Any, url: BrokerUrl) -> AmqpConnection:
    connection = AmqpConnection(url=url, clock=reactor, handshake_deadline_s=60.0)
    await TCP4ClientEndpoint(reactor, url.host, url.port).connect(
        Factory.forProtocol(lambda: connection)
    )
    await connection.handshake()
    return connection


async def measure(reactor: Any, url: BrokerUrl, seconds: float, size: int) -> Figures:
    """Measure the broker at `url`, for about `seconds`, with messages of `size` bytes."""
    connection = await connect(reactor, url)
    channel = await connection.open_channel()
    await channel.queue_declare(queue="bench", durable=True, arguments=QUORUM)
    published, elapsed = await publishing(reactor, connection, seconds, bytes(size))
    delivered = await delivering(reactor, connection, published)
    rpc_ms = await round_trips(reactor, connection, url)
    await connection.close()
    return Figures(published / elapsed, published / delivered, rpc_ms)


async def publishing(
    reactor: Any, connection: AmqpConnection, seconds: float, body: bytes
) -> tuple[int, float]:
    """Return how many publishes were confirmed, and in how many seconds."""
    publisher = Publisher(clock=reactor, confirm_deadline_s=30.0)
    await publisher.attach(connection)
    start = time.perf_counter()

    async def one_after_the_other() -> int:
        count = 0
        while time.perf_counter() - start < seconds:
            await publisher.publish("", "bench", body, properties=PERSISTENT)
            count += 1
        return count

    counts = await gatherResults(
        [Deferred.fromCoroutine(one_after_the_other()) for _ in range(UNDER_WAY)]
    )
    return sum(counts), time.perf_counter() - start


async def delivering(reactor: Any, connection: AmqpConnection, count: int) -> float:
    """Return the seconds needed to receive `count` messages and acknowledge each."""
    channel = await connection.open_channel()
    done: Deferred[float] = Deferred()
    start, seen = time.perf_counter(), 0

    def on_delivery(delivery: Delivery) -> None:
        nonlocal seen
        delivery.ack()
        seen += 1
        if seen == count:
            done.callback(time.perf_counter() - start)

    await consume(channel, "bench", on_delivery, prefetch=UNDER_WAY)
    return await done


async def round_trips(reactor: Any, connection: AmqpConnection, url: BrokerUrl) -> float:
    """Return the median time of sequential requests with replies, in milliseconds."""
    server = await connect(reactor, url)
    channel = await server.open_channel()
    await channel.queue_declare(queue="bench.rpc", durable=True, auto_delete=True)

    async def echo(request: bytes) -> bytes:
        return request

    await serve(channel, "bench.rpc", echo, prefetch=100)
    client = RpcClient(clock=reactor)
    await client.attach(connection)
    times = []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter()
        await client.call("bench.rpc", b"[]", timeout_s=30.0)
        times.append(time.perf_counter() - start)
    await server.close()
    return statistics.median(times) * 1000


# The brokers.


@contextmanager
def embedded(storage: str) -> Iterator[BrokerUrl]:
    """Run the embedded broker in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.broker", "--serve", storage, folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield BrokerUrl.parse(process.stdout.readline().strip())
            finally:
                process.terminate()


@contextmanager
def rabbitmq() -> Iterator[BrokerUrl]:
    """Run a RabbitMQ node. Raises `SkipTest` if RabbitMQ is not installed."""
    node = start_rabbitmq()
    try:
        while (
            not (node.folder / "pid").exists()
            or "startup complete" not in node.log_tail(400).lower()
        ):
            time.sleep(0.2)
        yield BrokerUrl.parse(node.url)
    finally:
        node.kill()


def serve_broker(storage: str, folder: str) -> None:
    """Run the embedded broker until this process, the child, is killed."""
    from twisted.internet import reactor as imported

    reactor: Any = imported
    pool = ThreadPool(1, 1)
    run = partial(deferToThreadPool, reactor, pool)
    kept = (
        SqliteStorage(directory=Path(folder), run=run, clock=reactor)
        if storage == "sqlite"
        else MemoryStorage()
    )
    broker = make_broker(clock=reactor, storage=kept)
    listening = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(BrokerFactory(broker))
    listening.addCallback(
        lambda port: print(f"amqp://guest:guest@127.0.0.1:{port.getHost().port}/", flush=True)
    )
    reactor.callWhenRunning(pool.start)
    reactor.addSystemEventTrigger("during", "shutdown", pool.stop)
    reactor.run()


async def main(reactor: Any, seconds: float, size: int) -> None:
    results: dict[str, Figures] = {}
    for name, broker in (
        ("RabbitMQ", rabbitmq),
        ("SQLite", partial(embedded, "sqlite")),
        ("memory", partial(embedded, "memory")),
    ):
        try:
            with broker() as url:
                results[name] = await measure(reactor, url, seconds, size)
        except SkipTest as error:
            show(f"{name}: {error}")
    base = next(iter(results.values()))
    show(f"{'':10}{'publishes/s':>18}{'deliveries/s':>18}{'RPC median, ms':>20}")
    for name, each in results.items():
        cells = [
            (each.publishes_s, base.publishes_s, ".0f"),
            (each.deliveries_s, base.deliveries_s, ".0f"),
            (each.rpc_ms, base.rpc_ms, ".2f"),
        ]
        show(
            f"{name:10}"
            + "".join(f"{value:>12{form}} ({value / ours:4.2f})" for value, ours, form in cells)
        )


def show(line: str) -> None:
    print(line)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.broker", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="seconds to publish to each broker"
    )
    parser.add_argument(
        "--bytes", type=int, default=600, help="message size; an encrypted task has about 600"
    )
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve_broker(*options.serve)
    else:
        task.react(main, (options.seconds, options.bytes))


if __name__ == "__main__":
    run()

"""Watch the embedded broker's file and memory under steady load.

Run ``python -m bench.state [--tasks 200000] [--max-age 20s]``.

The benchmark sends the AMQP messages of a front end and a worker, without the rest of them. Each
task is published to the work queue and the journal, gets a ``started`` and a ``finished`` event,
and is acknowledged. A second consumer reads the journal. The benchmark regularly prints the size of
the file and the memory of the broker's process. The file must stop growing once the oldest journal
events have reached the maximum age.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, field
from pamqp.commands import Basic
from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from bench.broker import connect
from rtprov.amqp.client.consumer import consume
from rtprov.amqp.client.delivery import Delivery
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.url import BrokerUrl
from rtprov.messaging import topology
from rtprov.messaging.event_messages import decode_task, encode_event, encode_task
from rtprov.messaging.topology import TASKS_EXCHANGE, Shard, Topology
from rtprov.model import Event, Finished, Started, State, Task

PERSISTENT = Basic.Properties(delivery_mode=2)
SHARD = Shard(0, 1)
PUBLISHERS = 100
SEALED = "g" * 460  # about the size of a usual encrypted body
REPORTS = 10


@define
class Work:
    """Sends the messages of a front end and of a worker, for `tasks` tasks."""

    publisher: Publisher
    tasks: int
    report: Any
    done: Deferred[None] = field(factory=Deferred)
    sent: int = 0
    finished: int = 0

    async def order(self) -> None:
        """Publish tasks until all `tasks` have been published."""
        while self.sent < self.tasks:
            number, self.sent = self.sent, self.sent + 1
            order = Task(f"{number:032x}", f"DEVICE{number:07}", 14, time.time(), SEALED)
            await self.publisher.publish(
                TASKS_EXCHANGE, SHARD.requested_key, encode_task(order), properties=PERSISTENT
            )

    def on_task(self, delivery: Delivery) -> None:
        working = Deferred.fromCoroutine(self.work(delivery))
        working.addErrback(self.failed)

    def failed(self, reason: Failure) -> None:
        if not self.done.called:
            self.done.errback(reason)

    async def work(self, delivery: Delivery) -> None:
        order = decode_task(delivery.body)
        await self.append(Started(order.task_id, order.equipment_id, time.time(), 1))
        await self.append(
            Finished(
                order.task_id, order.equipment_id, time.time(), State.COMPLETED, "A answered 200"
            )
        )
        delivery.ack()
        self.finished += 1
        if self.finished % max(1, self.tasks // REPORTS) == 0:
            self.report(self.finished)
        if self.finished == self.tasks:
            self.done.callback(None)

    def append(self, event: Event) -> Deferred[None]:
        return self.publisher.publish(
            TASKS_EXCHANGE, SHARD.event_key, encode_event(event), properties=PERSISTENT
        )


async def main(reactor: Any, tasks: int, max_age: str) -> None:
    topology.JOURNAL_MAX_AGE = max_age
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.broker", "--serve", "sqlite", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as broker:  # noqa: ASYNC220 - nothing else runs yet
            assert broker.stdout is not None
            start = time.perf_counter()

            def report(finished: int) -> None:
                size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
                resident = re.search(
                    r"VmRSS:\s+(\d+)", Path(f"/proc/{broker.pid}/status").read_text()
                )
                memory = int(resident[1]) / 1024 if resident else 0
                print(
                    f"{finished:>10} tasks{time.perf_counter() - start:>8.1f} s{size:>8.0f} MB on"
                    f" disk{memory:>8.0f} MiB in memory",
                    flush=True,
                )

            try:
                await steady_work(
                    reactor, BrokerUrl.parse(broker.stdout.readline().strip()), tasks, report
                )
            finally:
                broker.terminate()


async def steady_work(reactor: Any, url: BrokerUrl, tasks: int, report: Any) -> None:
    connection = await connect(reactor, url)
    await Topology([SHARD]).attach(connection)
    publisher = Publisher(clock=reactor, confirm_deadline_s=30.0)
    await publisher.attach(connection)
    journal = await connection.open_channel()
    await consume(
        journal,
        SHARD.journal,
        lambda event: event.ack(),
        prefetch=2000,
        arguments={"x-stream-offset": "first"},
    )
    work = Work(publisher, tasks, report)
    await consume(await connection.open_channel(), SHARD.work, work.on_task, prefetch=1000)
    await gatherResults([Deferred.fromCoroutine(work.order()) for _ in range(PUBLISHERS)])
    await work.done
    await connection.close()


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.state", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--tasks", type=int, default=200_000, help="number of tasks")
    parser.add_argument(
        "--max-age", default="20s", help="maximum age of journal events, as x-max-age"
    )
    options = parser.parse_args(arguments)
    task.react(main, (options.tasks, options.max_age))


if __name__ == "__main__":
    run()

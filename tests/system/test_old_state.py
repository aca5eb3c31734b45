"""The embedded broker with an earlier copy of its state folder, as docs/deployment/backup.md
describes backups. The files are real, everything else is in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred

from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.storage.sqlite import SqliteStorage
from rtprov.messaging.topology import Shard
from tests.support.scale import slow
from tests.support.system import REQUEST, System
from tests.support.system_case import SystemTestCase

DONE, RUNNING, UNKNOWN = 200, 204, 404
SHARD = Shard(0, 1)

Tasks = list[tuple[str, str]]


@define(eq=False, slots=False)
class DurableSystem(System):
    """A system whose broker keeps its state in `directory`. `new_directory` returns
    further ones.
    """

    new_directory: Callable[[], Path] = field(kw_only=True)

    def start_broker(self) -> None:
        if "directory" not in self.__dict__:
            self.directory = self.new_directory()
        storage = SqliteStorage(directory=self.directory, run=self.in_next_turn, clock=self.clock)
        self.broker = make_broker(clock=self.clock, storage=storage)
        self.network.listen("broker").listen(BrokerFactory(self.broker))

    def in_next_turn(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Stand in for the writer thread."""
        call: Deferred[Any] = Deferred()
        call.addCallback(lambda _: function(*arguments))
        self.clock.callLater(0, call.callback, None)
        return call

    def stop_broker(self) -> None:
        """Stop the broker as SIGTERM does."""
        self.network.factories.pop("broker")
        self.wait(self.broker.stop())
        self.wait(cast("Any", self.broker.virtual_host.storage).close())

    def wait(self, deferred: Deferred[Any]) -> None:
        self.network.until(lambda: bool(deferred.called), 30.0)

    def copy(self) -> Path:
        """Copy the whole folder as it is now."""
        copy = self.new_directory()
        shutil.copytree(self.directory, copy, dirs_exist_ok=True)
        return copy

    def restore(self, copy: Path) -> None:
        """Stop the broker, replace its folder, and start it again."""
        self.stop_broker()
        self.directory = copy
        self.start_broker()

    def stop_roles(self) -> None:
        """Stop the front end and the workers."""
        for role in (*self.workers, self.frontends.pop("b")):
            self.wait(role.stopService())
        self.workers.clear()
        self.network.factories.pop("b")
        self.network.cut("b")

    def start_roles(self) -> None:
        """Start a new front end and new workers."""
        roles = (self.start_frontend(), self.start_worker())
        self.network.until(lambda: all(role.connection.connected for role in roles), 10.0)

    def stop(self) -> None:
        super().stop()
        self.wait(cast("Any", self.broker.virtual_host.storage).close())


class OldState(SystemTestCase):
    """Calls take 10 s, three at a time, so that at the time of the copy some tasks run and others
    wait.
    """

    def make(self) -> System:
        self.directories = 0
        return DurableSystem(delay_s=10.0, concurrency=3, new_directory=self.new_directory)

    def new_directory(self) -> Path:
        self.directories += 1
        directory = Path(self.mktemp()) / str(self.directories)
        directory.mkdir(parents=True)
        return directory

    @property
    def durable(self) -> DurableSystem:
        return cast("DurableSystem", self.system)

    def accepted(self, *numbers: int) -> Tasks:
        """POST tasks for the devices of these numbers, each with its own key."""
        return [
            (device, self.post(device)) for device in (f"DEVICE{number:04}" for number in numbers)
        ]

    def post(self, device: str) -> str:
        headers = {"Idempotency-Key": f"key-of-{device}"}
        answer = self.system.request(
            "POST", f"/api/v1/equipment/cpe/{device}", REQUEST, headers=headers
        )
        self.assertEqual(answer.status, 200, answer.body)
        return str(answer.json["taskId"])

    def codes(self, tasks: Tasks) -> list[int]:
        return [self.system.get(device, task).json["code"] for device, task in tasks]

    def assert_end(self, tasks: Tasks) -> None:
        """Check that the tasks are completed in time, and are never unknown meanwhile."""
        told: set[int] = set()
        for _ in range(60):
            self.system.network.advance(1.0)
            told.update(self.codes(tasks))
        self.assertEqual(self.codes(tasks), [DONE] * len(tasks))
        self.assertEqual(told - {503}, told & {DONE, RUNNING} | {DONE})

    def before_and_after(self, backup: Callable[[], Path]) -> tuple[Tasks, Tasks, Path]:
        """Return tasks that were accepted before and after the copy. Of both, some have ended, some
        run, and some wait.
        """
        before = self.accepted(*range(3))
        self.system.network.advance(11.0)
        before += self.accepted(*range(3, 9))
        self.system.network.advance(1.0)
        copy = backup()
        self.assertEqual(self.codes(before), [DONE] * 3 + [RUNNING] * 6)
        after = self.accepted(*range(20, 29))
        self.system.network.advance(31.0)
        self.assertEqual(self.codes(before + after), [DONE] * 12 + [RUNNING] * 6)
        return before, after, copy

    def copy_of_stopped(self) -> Path:
        self.durable.stop_broker()
        copy = self.durable.copy()
        self.durable.start_broker()
        self.system.network.advance(10.0 - 9.0)
        return copy

    def check_new_roles(self, backup: Callable[[], Path]) -> None:
        before, after, copy = self.before_and_after(backup)
        self.durable.stop_roles()
        self.durable.restore(copy)
        self.durable.start_roles()
        self.assertEqual(self.codes(before[:3]), [DONE] * 3)
        self.assertEqual(self.codes(after), [UNKNOWN] * 9)
        self.assertEqual([(device, self.post(device)) for device, _ in before], before)
        self.assertEqual([(device, self.post(device)) for device, _ in after[:4]], after[:4])
        self.assert_end(before + after[:4])
        self.assertEqual(self.codes(after[4:]), [UNKNOWN] * 5)
        self.assertEqual(self.system.broker.virtual_host.queues[SHARD.work].message_count, 0)

    @slow
    def test_copied_while_it_runs(self) -> None:
        """Tasks from before the copy end. Tasks from after it are unknown. A key of either gives
        the same task id as before, and that task is done.
        """
        self.check_new_roles(self.durable.copy)

    @slow
    def test_copied_when_it_was_stopped(self) -> None:
        """The same holds for a copy of the folder of a stopped broker."""
        self.check_new_roles(self.copy_of_stopped)

    @slow
    def test_roles_that_run_on(self) -> None:
        """A worker that keeps running publishes what it knows to the old journal: ended tasks stay
        ended, and tasks that it holds are done.
        """
        before, after, copy = self.before_and_after(self.durable.copy)
        calls = self.system.stub.calls
        self.durable.restore(copy)
        self.system.network.advance(120.0)
        self.assert_end(before + after[:6])
        self.assertEqual(set(self.codes(after)) - {DONE, 500}, set())
        self.assertEqual(
            [(device, self.post(device)) for device, _ in before + after], before + after
        )
        self.durable.stop_roles()
        self.durable.start_roles()
        self.assertEqual(self.codes(before + after[:6]), [DONE] * 15)
        self.assertLessEqual(self.system.stub.calls, calls + 6 + 3)

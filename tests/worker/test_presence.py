"""Which worker is active: how workers find out and what they log. Also the log line for each end of
a task.
"""

from __future__ import annotations

import json
import re

from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rtprov.messaging.event_messages import decode_event, encode_event
from rtprov.model import Active, EquipmentState, Finished, Requested, State
from rtprov.tap.log_lines import json_lines
from tests.support.system import System
from tests.support.system_case import SystemTestCase


class Lines(SystemTestCase):
    """Collects the log lines about active workers and ends of tasks in `lines`."""

    def make(self) -> System:
        return System()

    def setUp(self) -> None:
        self.lines: list[str] = []
        super().setUp()

    def observe(self, event: LogEvent) -> None:
        super().observe(event)
        line = formatEvent(event)
        if re.match("shard .*(active|standby)|completed|failed|cancelled|not_found", line):
            self.lines.append(line)

    def taken(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


class Roles(Lines):
    def test_alone(self) -> None:
        """A worker without other workers is active before its first task."""
        name = self.system.workers[0].process_id
        self.assertEqual(self.taken(), [f"shard 0of1: active: this process, {name}"])
        self.system.accepted("ABC123456")
        self.system.network.advance(120)
        self.assertEqual([line for line in self.taken() if "shard" in line], [])

    def test_standby_takes_over(self) -> None:
        """A standby logs its role. When it takes over it logs that, and so does the earlier active
        worker when it is a standby.
        """
        self.taken()
        self.system.start_worker()
        self.system.network.advance(1)
        self.assertEqual(self.taken(), ["shard 0of1: standby: another worker is active"])
        old, new = self.system.workers
        self.system.accepted("ABC123456")
        for _, end in self.system.network.connections:
            if end.protocol is old._publisher._connection:
                end.cut()
        self.system.network.advance(5)
        lines = self.taken()
        self.assertIn(f"shard 0of1: active: this process, {new.process_id}", lines)
        self.assertEqual(lines[-1], f"shard 0of1: standby: process {new.process_id} is active")
        self.assertEqual(
            {
                store.backlog.active.by
                for worker in (old, new)
                for store in worker.stores
                if store.backlog.active
            },
            {new.process_id},
        )

    def test_only_the_active_one_counts(self) -> None:
        """A false `Active` of a standby is corrected at the next delivery."""
        self.system.start_worker()
        self.system.network.advance(2)
        active, standby = self.system.workers
        (journal,) = [
            session for session in standby.connection._sessions if hasattr(session, "append")
        ]
        journal.append(Active(standby.process_id, self.system.wall_clock(), 7, EquipmentState.OPEN))
        self.system.network.advance(2)
        self.assertEqual(active.stores[0].backlog.concurrency, 7)
        self.system.accepted("ABC123456")
        self.system.network.advance(1)
        self.assertEqual(
            [worker.stores[0].backlog.concurrency for worker in self.system.workers], [500, 500]
        )
        self.assertFalse(active.stores[0].backlog.trouble)


class Ends(Lines):
    def test_no_caller(self) -> None:
        """The text says that the caller is not known; JSON lacks the field."""
        (journal,) = [
            session
            for session in self.system.workers[0].connection._sessions
            if hasattr(session, "append")
        ]
        task, now = "0" * 32, self.system.wall_clock()
        with capturedLogs() as events:
            journal.append(Requested(task, "ABC123456", now))
            journal.append(Finished(task, "ABC123456", now, State.FAILED, "A answered 500"))
            self.system.network.advance(1)
        (event,) = (each for each in events if each.get("event") == "task.failed")
        line = json.loads(json_lines("worker")(event))
        self.assertNotIn("caller", line)
        self.assertEqual(
            line["message"],
            f"failed: task {task} for ABC123456 from an unknown caller: A answered 500",
        )

    def test_every_end(self) -> None:
        """Each end of a task is one line with task, device and caller, with any number of replicas.
        A replay writes no line.
        """
        self.system.start_worker()
        self.system.network.advance(1)
        self.taken()
        tasks = [
            self.system.accepted(device)
            for device in ("ABC123456", "FAIL123456", "NOTFOUND12", "ABC123456")
        ]
        self.system.request(
            "DELETE", f"/api/v1/equipment/cpe/ABC123456/task/{tasks[3]}?reason=typing+error"
        )
        self.system.network.advance(1)
        caller = "address:127.0.0.1"
        self.assertEqual(
            self.taken(),
            [
                (
                    f"cancelled: task {tasks[3]} for ABC123456 from {caller}: by a client, before"
                    " it was sent"
                ),
                f"cancelled: task {tasks[3]} for ABC123456, by {caller}, reason: typing error",
            ],
        )
        self.system.network.advance(70)
        expected = [
            f"completed: task {tasks[0]} for ABC123456 from {caller}: A answered 200",
            f"failed: task {tasks[1]} for FAIL123456 from {caller}: A answered 500",
            f"not_found: task {tasks[2]} for NOTFOUND12 from {caller}: A answered 404",
        ]
        self.assertEqual(sorted(self.taken()), expected)
        self.system.start_worker()
        self.system.network.advance(5)
        self.assertEqual([line for line in self.taken() if "shard" not in line], [])
        self.assertFalse([event for event in self.events if "s3cr3t" in event])


class Wire(SynchronousTestCase):
    def test_events(self) -> None:
        """`Active`, and the caller in `Requested`, are the same after encoding and decoding. An
        unknown state of A is read as open.
        """
        for event in (
            Active("p1", 1.0, 7, EquipmentState.HALF_OPEN),
            Requested("0" * 32, "ABC123456", 1.0, caller="token:billing", accepted_by="f1"),
        ):
            self.assertEqual(decode_event(encode_event(event)), event)
        later = (
            b'{"kind":"active","by":"p1","at":1.0,"concurrency":0,"equipment":"resting","load":3}'
        )
        self.assertEqual(decode_event(later), Active("p1", 1.0, 1, EquipmentState.OPEN))
        long = Requested("0" * 32, "ABC123456", 1.0, caller="x" * 5000)
        self.assertEqual(
            decode_event(encode_event(long)),
            Requested("0" * 32, "ABC123456", 1.0, caller="x" * 100),
        )

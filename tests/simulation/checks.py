"""The invariants of the system. They are checked after each event, against what service A did and
what is on the broker's disk. Only the first violation is reported.

- A task whose POST was answered 200 gets exactly one final status, and is never "not found".
- The final status is the one in the journal, and never changes. A client that has seen it is never
  told "running" again, unless replicas lag.
- `Completed` requires a success of A. "Equipment not found" requires A's 404. A failure requires
  A's 500, an answer of A that is not valid, or no answer within the deadline.
- A success that reached a worker's machine in time counts, even if the worker's process was
  suspended meanwhile.
- No task runs out of patience early, however the clocks are set.
- A gets the body that the client sent.
- Calls for one device never overlap: not within a worker, and not between two workers while the
  broker considers the first one's connection alive.
- The tasks of a device run in the order in which the broker accepted them: A is not called for a
  task before all earlier ones have ended.
- A task that has ended is not started again. A is never called for a cancelled task.
- One device and one ``Idempotency-Key`` have one task, with one body. Another body with the same
  key is never accepted and never reaches A, and a refusal stays a refusal.
- The answer to a cancellation is true: either A never hears of the task, or the call had begun or
  the task had ended.
- A front end answers within 5 s on a connection without faults.
- Nothing is logged as an error.

`restored` lists the exceptions after a restored backup. There are none after a change of the number
of shards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define, field

from rtprov.broker.storage.database import POSITION_BITS, Batch
from rtprov.errors import UndecodableMessage
from rtprov.messaging.event_batches import events_in
from rtprov.messaging.event_messages import decode_event, decode_task
from rtprov.model import Cancelled, Finished, Requested, Started, State
from tests.simulation.clock import EPOCH
from tests.simulation.orders import Order, Task
from tests.simulation.restored import Restores
from tests.simulation.service_a import LONGEST_RETRY_AFTER_S
from tests.support.fakes import PlainSealer

if TYPE_CHECKING:
    from twisted.logger import LogEvent

    from tests.simulation.clock import Role, WorldClock
    from tests.simulation.disk import Disk
    from tests.simulation.links import Link
    from tests.simulation.network import Network
    from tests.simulation.service_a import Call
    from tests.simulation.trace import Trace

FRONTEND_DEADLINE_S = 5.0


class Violation(Exception):
    """An invariant that was violated."""


@define(eq=False)
class Checks:
    """Checks the invariants. `broken` describes the first violation. `disk` is set once there is
    one.
    """

    trace: Trace
    world: WorldClock
    network: Network
    shortest_wait_s: float  # how long a worker waits for an answer of A at least
    patience_s: float
    dead_letters: bool  # the broker may dead-letter a task: it then fails, out of order
    # A worker may learn that a task has ended after the start of its own attempt was confirmed.
    late_streams: bool
    lagging: bool  # one replica may learn of an event much later than another
    disk: Disk | None = None
    broken: str | None = None
    orders: dict[bytes, Order] = field(factory=dict)
    accepted: dict[str, Order] = field(factory=dict)
    tasks: dict[str, Task] = field(factory=dict)
    restores: Restores = field(factory=Restores)
    _queues: dict[int, str] = field(factory=dict)
    _order: dict[str, list[Task]] = field(factory=dict)  # by device, in the broker's order
    _calls: dict[str, list[Call]] = field(factory=dict)  # by device, in order of arrival
    _broker_links: dict[str, list[Link]] = field(factory=dict)  # by consuming role
    # When an operator deleted a work queue, and which workers did not hear the broker then.
    _deletions: list[tuple[float, set[Role]]] = field(factory=list)

    def expect(
        self,
        holds: bool,
        text: str | Callable[[], str],
        task_id: str | None = None,
        device: str | None = None,
    ) -> None:
        """Record a violation unless `holds`, or unless one was recorded before."""
        if holds or self.broken is not None:
            return
        message = text if isinstance(text, str) else text()
        about = [f"task {task_id}" if task_id else "", f"device {device}" if device else ""]
        where = ", ".join(each for each in about if each)
        self.broken = (
            f"{message}{f' ({where})' if where else ''}\n{self.trace.about(task_id, device)}"
        )

    def task(self, task_id: str, device: str) -> Task:
        task = self.tasks.get(task_id)
        if task is None:
            task = self.tasks[task_id] = Task(task_id, device)
        return task

    # The disk.

    def on_written(self, batch: Batch) -> None:
        """A batch is on disk: the journal contains its events from now on."""
        for row in batch.added.values():
            if row[4] == "rtprov.tasks" and self._queue_name(row[0] >> POSITION_BITS).startswith(
                "rtprov.journal"
            ):
                for event in events_in(row[7]):
                    self._on_event(event)

    def _queue_name(self, queue_id: int) -> str:
        if queue_id not in self._queues:
            assert self.disk is not None
            self._queues = {number: name for name, number in self.disk.queue_ids().items()}
        return self._queues.get(queue_id, "")

    def _on_event(self, body: bytes) -> None:
        event = decode_event(body)
        if not isinstance(event, (Requested, Started, Cancelled, Finished)):
            return
        task = self.task(event.task_id, event.equipment_id)
        if isinstance(event, Requested):
            self.trace.note(f"disk: requested {event.task_id}", event.task_id, task.device)
            if not task.requested:
                self._begin(task, self._order_in(body))
        elif isinstance(event, Started):
            self.trace.note(
                f"disk: started {event.task_id}, attempt {event.attempt}",
                event.task_id,
                task.device,
            )
            if task.started == 0 and not self.restores.excuses(task.task_id):
                task.first_started_at = self.world.now
            task.first_stamp = event.at if task.started == 0 else min(task.first_stamp, event.at)
            task.started += task.finished is None
        elif isinstance(event, Cancelled):
            self.trace.note(f"disk: cancelled {event.task_id}", event.task_id, task.device)
            if not task.started:
                self._end(task, State.CANCELLED)
        else:
            self.trace.note(
                f"disk: finished {event.task_id}: {event.state.value}, {event.reason}",
                event.task_id,
                task.device,
            )
            self._end(task, event.state, event.reason)

    def _order_in(self, body: bytes) -> Order | None:
        """Return the order that a `Requested` event came from. Return None for an event that a
        worker published, which has no body.
        """
        try:
            return self.orders.get(PlainSealer().open(decode_task(body).sealed, None))
        except UndecodableMessage:
            return None

    def _begin(self, task: Task, order: Order | None) -> None:
        task.requested, task.order = True, order
        self._order.setdefault(task.device, []).append(task)
        if order is not None and order.key is not None:
            self.expect(
                order.key.task_id in (None, task.task_id),
                "A key has two tasks",
                task.task_id,
                task.device,
            )
            order.key.task_id = task.task_id

    def _end(self, task: Task, state: State, reason: str = "") -> None:
        if task.finished is None:
            task.finished = state
            self._justified(task, reason)

    def _justified(self, task: Task, reason: str) -> None:
        if task.finished is State.COMPLETED:
            self.expect(
                task.succeeded, "Completed, but A never had a success", task.task_id, task.device
            )
        elif task.finished is State.NOT_FOUND:
            self.expect(
                task.unknown_to_a,
                "Equipment not found, but A never said so",
                task.task_id,
                task.device,
            )
        elif task.finished is State.FAILED:
            waited_s = self.world.now - task.first_started_at
            given_up = task.started > 0 and waited_s + self._skew_s(task) >= self.shortest_wait_s
            excused = self.dead_letters or self.restores.excuses(task.task_id)
            self.expect(
                task.failed or given_up or excused,
                f"Failed after {waited_s:.1f} s, but A did not",
                task.task_id,
                task.device,
            )
            dead_lettered = self.dead_letters and reason.startswith("dead-lettered")
            if not (dead_lettered or self.restores.excuses(task.task_id)):
                self._in_time(task, reason, waited_s)
        elif task.finished is State.CANCELLED:
            self.expect(
                task.called_off, "Cancelled, but no client asked for it", task.task_id, task.device
            )

    def _in_time(self, task: Task, reason: str, waited_s: float) -> None:
        """Check that no success of A was ignored and that no clock cut the patience short, as far
        as the worker's process could know.
        """
        calls = [call for call in self._calls.get(task.device, []) if call.task_id == task.task_id]
        if len({call.worker.name for call in calls}) == 1:
            unread = [call.number for call in calls if call.in_time and call.worker.alive]
            self.expect(
                not unread,
                f"Failed, though A's success to call {unread} has arrived: {reason}",
                task.task_id,
                task.device,
            )
        if "out of patience" not in reason or any(
            worker.born_at > task.first_started_at for worker in self._workers
        ):
            return  # A process that started later could not see how clocks were set before.
        due_s = self.patience_s - LONGEST_RETRY_AFTER_S - self._skew_s(task) - 1.0
        self.expect(
            waited_s >= due_s,
            f"Out of patience after {waited_s:.1f} s of {self.patience_s:.0f}",
            task.task_id,
            task.device,
        )

    @property
    def _workers(self) -> set[Role]:
        """All worker processes that ever connected."""
        return {
            link.client_role
            for name, links in self._broker_links.items()
            if name.startswith("w")
            for link in links
        }

    def _skew_s(self, task: Task) -> float:
        """Return by how many seconds, at least 0, a worker's clock may have been ahead of the clock
        that stamped the task's first attempt.
        """
        began = EPOCH + task.first_started_at
        ahead = [
            began + worker.offset_at(max(worker.born_at, task.first_started_at)) - task.first_stamp
            for worker in self._workers
        ]
        return max([0.0, *ahead])

    # A.

    def on_link(self, link: Link) -> None:
        if link.name == "broker":
            self._broker_links.setdefault(link.client_role.name, []).append(link)

    def on_call(self, call: Call) -> None:
        """A received a call."""
        task = self.task(call.task_id, call.device)
        task.calls += 1
        self.trace.note(
            f"A: call {call.number} by {call.worker.name} for {call.task_id}: {call.conduct}",
            call.task_id,
            call.device,
        )
        order = self.orders.get(call.body)
        right = (
            order is not None
            and order.device == call.device
            and order.task_id in (None, call.task_id)
        )
        self.expect(
            right,
            "A got a body that its client did not send for this task",
            call.task_id,
            call.device,
        )
        if order is not None:
            order.called = True
        if not self.restores.excuses(call.task_id):
            self._in_its_turn(call, task, order)
        self._alone(call)

    def _in_its_turn(self, call: Call, task: Task, order: Order | None) -> None:
        if order is not None:
            first = not order.refused and task.order in (None, order)
            self.expect(
                first, "A got a body whose key had another one before", call.task_id, call.device
            )
            task.order = order
        self.expect(
            task.finished is not State.CANCELLED,
            "A is called for a task that was cancelled",
            call.task_id,
            call.device,
        )
        for earlier in self._order.get(call.device, []):
            if earlier is task:
                break
            if (
                task.requested
                and not self.dead_letters
                and earlier.task_id not in self.restores.lost
            ):
                ended = earlier.finished is not None or bool(
                    self.restores.ends_before(earlier.task_id)
                )
                message = f"A is called before the earlier task {earlier.task_id} has ended"
                self.expect(ended, message, call.task_id, call.device)
        over = task.finished is not None and task.calls > task.started and not self.late_streams
        self.expect(
            not over, "A is called again for a task that had ended", call.task_id, call.device
        )

    def _alone(self, call: Call) -> None:
        """Check that no other call for the device is under way, as far as worker and broker can
        know.

        Calls may arrive in another order than they were started in.
        """
        for other in self._calls.setdefault(call.device, []):
            first, second = sorted((call, other), key=lambda each: each.begun_at)
            if first.over_at(second.begun_at) is not None:
                continue
            if first.worker is second.worker:
                message = (
                    f"{second.worker.name} begins call {second.number} while its call"
                    f" {first.number} goes on"
                )
                self.expect(False, message, call.task_id, call.device)
            elif (
                self._held_alive(first.worker, first.begun_at, second.begun_at)
                and not self._unaware(second)
                and not self._could_not_stop(first, second)
            ):
                message = (
                    f"{second.worker.name} begins call {second.number} while {first.worker.name},"
                    f" which the broker holds for alive, has its call {first.number}"
                )
                self.expect(False, message, call.task_id, call.device)
        self._calls[call.device].append(call)

    def _held_alive(self, worker: Role, since: float, until: float) -> bool:
        """Return whether the broker considered the connection that the worker had at `since` alive
        from then until `until`.
        """
        for link in self._broker_links.get(worker.name, []):
            had = (
                link.client_role is worker
                and link.since <= since
                and not _before(link.client.lost_at, since)
            )
            if had and not _before(link.server.lost_at, until):
                return True
        return False

    def _unaware(self, call: Call) -> bool:
        """Return whether the worker could not yet know, when it began the call, that the broker had
        closed its connection.
        """
        return any(
            link.client_role is call.worker
            and _before(link.server.lost_at, call.begun_at)
            and (link.client.lost_at is None or link.client.lost_at >= call.begun_at)
            for link in self._broker_links.get(call.worker.name, [])
        )

    def _could_not_stop(self, first: Call, second: Call) -> bool:
        """Return whether a work queue was deleted between these calls, and the first worker did not
        hear the broker then: it could not learn that it is no consumer any more.
        """
        return any(
            first.begun_at <= at <= second.begun_at and first.worker in deaf
            for at, deaf in self._deletions
        )

    def on_work_queue_deleted(self) -> None:
        """An operator has deleted a work queue."""
        now = self.world.now
        deaf = {
            link.client_role
            for name, links in self._broker_links.items()
            if name.startswith("w")
            for link in links
            if link.client_role.frozen_until > now
            or (not link.over and (link.server.mute or self.network.blocked(link)))
        }
        self._deletions.append((now, deaf))

    def on_answer(self, call: Call) -> None:
        """A sends its answer now."""
        task = self.task(call.task_id, call.device)
        self.trace.note(f"A: answers call {call.number}: {call.conduct}", call.task_id, call.device)
        task.succeeded |= call.succeeded
        task.unknown_to_a |= call.conduct == "unknown"
        task.failed |= call.conduct in ("failure", "garbage", "nonsense")

    # Clients.

    def on_accepted(self, order: Order, task_id: str, began_after: int = 0) -> None:
        """A POST was answered 200. `began_after` is the number of backups restored before
        it began.
        """
        order.task_id = order.task_id or task_id
        if task_id in self.restores.lost and began_after < self.restores.count:
            order.lost = True
            return
        task = self.task(task_id, order.device)
        before = self.accepted.get(task_id)
        same = order.key is not None and before is order
        again = task_id in self.restores.lost
        self.expect(before is None or same, "Two POSTs got one task id", task_id, order.device)
        self.expect(
            order.task_id == task_id,
            f"The same POST got another task id than {order.task_id}",
            task_id,
            order.device,
        )
        self.expect(
            not order.refused or again,
            "A POST was accepted that was refused before",
            task_id,
            order.device,
        )
        self.expect(
            task.requested, "A POST was accepted, and the journal has it not", task_id, order.device
        )
        right = task.order in (None, order) or again
        self.expect(
            right, "A POST was accepted whose key had another body before", task_id, order.device
        )
        order.lost = order.unknown = False
        self.accepted[task_id] = order

    def on_refused(self, order: Order) -> None:
        """A client was told that its key was used with another body."""
        assert order.key is not None
        task = self.tasks.get(order.key.task_id or "")
        other = task is not None and task.order is not order
        right = (
            other and order.task_id is None and not order.called
        ) or order.key.task_id in self.restores.lost
        self.expect(
            right,
            f"Order {order.number} was refused, and its key has no other body",
            order.key.task_id,
            order.device,
        )
        order.refused = True

    def on_cancelling(self, order: Order) -> None:
        """A client asks to cancel the order."""
        assert order.task_id is not None
        self.task(order.task_id, order.device).called_off = True

    def on_cancelled(self, order: Order) -> None:
        """A client was told that its task is cancelled."""
        assert order.task_id is not None
        calls = self.task(order.task_id, order.device).calls
        untrue = calls and not self.restores.excuses(order.task_id)
        self.expect(
            not untrue,
            f"A client is told that a task is cancelled, but A has had {calls} calls",
            order.task_id,
            order.device,
        )
        self.on_status(order, State.CANCELLED, order.final)

    def on_too_late(self, order: Order) -> None:
        """A client was told that its task can no longer be cancelled."""
        assert order.task_id is not None
        if self.restores.excuses(order.task_id):
            return
        order.too_late = True
        task = self.task(order.task_id, order.device)
        late = task.finished is not State.CANCELLED and (
            task.started > 0 or task.finished is not None
        )
        self.expect(
            late,
            "A client is told that it is too late to cancel, and it was not",
            order.task_id,
            order.device,
        )

    def on_status(self, order: Order, state: State | None, known: State | None) -> None:
        """A client was told a status; None is "task not found". `known` is the final status that
        clients had seen when the request was sent.
        """
        task_id, device = order.task_id, order.device
        assert task_id is not None
        if state is None and order.lost:
            order.unknown = True
            return
        self.expect(state is not None, "404 for a task that was accepted", task_id, device)
        excused = self.restores.excuses(task_id)
        # Another front end, or another replica, has told the final status.
        behind = self.lagging and state is State.RUNNING
        changed = not (known is None or state is known or behind or excused)
        self.expect(not changed, f"A final status changed from {known} to {state}", task_id, device)
        if state is None or not state.final or self.broken is not None:
            return
        contradicts = state is State.CANCELLED and order.too_late
        self.expect(not contradicts, "Cancelled, and it was too late before", task_id, device)
        same = order.final in (None, state) or excused
        self.expect(
            same,
            f"Clients were told two final statuses, {order.final} and {state}",
            task_id,
            device,
        )
        order.final = state
        finished = self.task(task_id, device).finished
        right = finished is state or state in self.restores.ends_before(task_id)
        self.expect(
            right, f"A client is told {state}, the journal says {finished}", task_id, device
        )

    # Backups of the disk.

    def on_backup(self) -> None:
        """A copy of the disk is made."""
        self.restores.save(self.tasks.values())

    def on_restored(self) -> None:
        """The disk is replaced by its copy."""
        self.restores.restore(self.tasks.values(), self.orders.values())
        self._queues = {}
        for task_id in [task_id for task_id in self.accepted if task_id in self.restores.lost]:
            del self.accepted[task_id]
        for tasks in self._order.values():
            tasks[:] = [task for task in tasks if task.requested]

    def on_exchange(self, link: Link, seconds: float, what: str) -> None:
        """A request was answered or given up after this many seconds."""
        late = seconds > FRONTEND_DEADLINE_S + 0.3 and not link.disturbed and not self.network.slow
        self.expect(
            not late,
            lambda: (
                f"{what}: no answer within {FRONTEND_DEADLINE_S:g} s, but after {seconds:.1f} s"
            ),
        )

    def on_log(self, text: str, event: LogEvent) -> None:
        """An error was logged."""
        failure = event.get("log_failure")
        self.expect(
            False,
            f"An error was logged: {text}\n{failure.getTraceback() if failure is not None else ''}",
        )

    # The end.

    def at_end(self) -> None:
        """The run is over and nothing is under way."""
        for task_id, order in self.accepted.items():
            self.expect(
                order.final is not None,
                "An accepted task has no final status",
                task_id,
                order.device,
            )
        for task in self.tasks.values():
            ended = task.finished is not None or not task.requested
            self.expect(
                ended, "A task that the broker took has no final status", task.task_id, task.device
            )


def _before(moment: float | None, time: float) -> bool:
    return moment is not None and moment <= time

"""What clients order, a task or its cancellation, where the journal's order decides what becomes of
it.

The pattern is the same for both: put it into the journal, and once that is confirmed, ask a replica
behind its barrier what the journal says. Whoever came first is seen there by everybody, whichever
front end he came through and whatever crashed meanwhile. What is known before spares the publish.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from rtprov.errors import (
    BrokerError,
    BrokerUnavailable,
    KeyGone,
    KeyReused,
    NoReply,
    NotYours,
    NoWorker,
    Overloaded,
    TaskNotFound,
    TooLate,
    Unconfirmed,
    Undecided,
    Unroutable,
)
from rtprov.frontend.audit import (
    ACCEPTED,
    PERHAPS_ACCEPTED,
    REPEATED,
    audited,
    note,
    note_cancellation,
)
from rtprov.model import Details, State, Task, keyed_task_id
from rtprov.security.tokens import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from twisted.internet.interfaces import IReactorTime

    from rtprov.http.admission import Caller
    from rtprov.interfaces import Sealer, TaskQueries, TaskSink

    _Condition = Callable[[Details | None], bool]
    _Publish = Callable[[Details | None], Deferred[None]]

DEADLINE_S = 4.5  # B answers within 5 s, whatever is broken behind it


class TaskSubmission:
    """Takes orders. `new_task_id` makes ids that nobody can guess; `wall_clock` gives seconds since
    the epoch.

    `process_id` names this process in the journal.
    """

    def __init__(
        self,
        *,
        tasks: TaskSink,
        directory: TaskQueries,
        sealer: Sealer,
        clock: IReactorTime,
        new_task_id: Callable[[], str],
        wall_clock: Callable[[], float],
        process_id: str | None = None,
    ) -> None:
        self._tasks = tasks
        self._directory = directory
        self._sealer = sealer
        self._clock = clock
        self._new_task_id = new_task_id
        self._wall_clock = wall_clock
        self._process_id = process_id
        # orders with a key: their tasks, and when they came
        self._under_way: set[tuple[str, float]] = set()

    async def submit(self, equipment_id: str, timeout_s: int, body: bytes, caller: str) -> str:
        """Order a task for `caller`; its id, once the broker has confirmed it. Raises what
        `TaskSink.submit` fails with.
        """
        origin = {"caller": caller, "accepted_by": self._process_id, "key": self._sealer.key_id}
        task = Task(
            self._new_task_id(),
            equipment_id,
            timeout_s,
            self._wall_clock(),
            self._sealer.seal(body),
            **origin,
        )
        try:
            await audited(self._tasks.submit(task), task, caller).addTimeout(
                DEADLINE_S, self._clock
            )
        except TimeoutError:
            raise Unconfirmed("The broker did not confirm the task in time") from None
        return task.task_id

    async def submit_idempotent(
        self, equipment_id: str, timeout_s: int, body: bytes, key: str, caller: str
    ) -> str:
        """The id of the one task of this device and key: ordered now, or before.

        Raises `KeyReused` where that was ordered with another body, `KeyGone` where that cannot be
        told any more, `Undecided` where it was sent and that could not be learned, and what
        `TaskQueries` and `TaskSink` fail with where nothing was sent."""
        task_id = keyed_task_id(equipment_id, key)
        fingerprint = self._sealer.fingerprint(task_id, body)
        origin = {"caller": caller, "accepted_by": self._process_id, "key": self._sealer.key_id}
        with self._moment(task_id) as now:
            task = Task(
                task_id,
                equipment_id,
                timeout_s,
                now,
                self._sealer.seal(body),
                fingerprint,
                **origin,
            )
            known = await self._submit_once(task, body, caller)
        if not self._is_ours(known, body):
            if known.key is not None and known.key not in self._sealer.key_ids:
                raise KeyGone(known.key)
            raise KeyReused
        return task_id

    async def _submit_once(self, task: Task, body: bytes, caller: str) -> Details:
        """What the journal says of the task, to which it adds this order if it is needed; with a
        line in the audit trail.
        """

        def needed(known: Details | None) -> bool:
            """A task that has not begun may have reached the journal alone, and one message too
            many does no harm.
            """
            return known is None or (
                known.state is State.RUNNING
                and not known.attempt_count
                and self._is_ours(known, body)
            )

        sent: list[Task] = []

        def submit(known: Details | None) -> Deferred[None]:
            # a later key makes another one
            sent.append(task if known is None else evolve(task, fingerprint=known.fingerprint))
            return self._tasks.submit(sent[0])

        try:
            known = await self._settle(task.task_id, task.equipment_id, needed, submit)
        except (Undecided, CancelledError):
            if sent:
                note(task, caller, PERHAPS_ACCEPTED)
            raise
        if sent and self._is_ours(known, body):
            note(task, caller, ACCEPTED if self._is_first(task, known) else REPEATED)
        return known

    def _is_ours(self, known: Details, body: bytes) -> bool:
        fingerprint = known.fingerprint
        return fingerprint is not None and self._sealer.matches(fingerprint, known.task_id, body)

    def _is_first(self, task: Task, known: Details) -> bool:
        """Whether the journal has this order before all others of its task. Earlier workers do not
        tell who accepted it.
        """
        here = known.accepted_by in (self._process_id, None)
        return here and known.requested_at == task.accepted_at

    @contextmanager
    def _moment(self, task_id: str) -> Iterator[float]:
        """The time of an order with a key: of those of one task that are under way at once, each
        has its own.
        """
        now = self._wall_clock()
        while (task_id, now) in self._under_way:
            now = math.nextafter(now, math.inf)
        self._under_way.add((task_id, now))
        try:
            yield now
        finally:
            self._under_way.remove((task_id, now))

    async def cancel(
        self, task_id: str, equipment_id: str, caller: Caller, why: str | None
    ) -> None:
        """Call a task off, for `caller`, who says `why`; done where the journal has that before its
        first call to A.

        Raises `TaskNotFound`, `NotYours`, `TooLate`, and otherwise as `submit_idempotent`. An audit line
        says what came of it."""

        def may_be_cancelled(known: Details | None) -> bool:
            if (
                known is not None
                and caller.role < Role.OPERATE
                and known.caller not in (None, caller.name)
            ):
                raise NotYours(str(caller.role))
            return known is not None and known.state is State.RUNNING and not known.attempt_count

        sent: list[float] = []

        def cancel(_: Details | None) -> Deferred[None]:
            sent.append(self._wall_clock())
            return self._tasks.cancel(task_id, equipment_id, sent[0])

        def tell(outcome: str) -> None:
            note_cancellation(outcome, task_id, equipment_id, caller.name, why)

        try:
            known = await self._settle(task_id, equipment_id, may_be_cancelled, cancel)
        except (Undecided, CancelledError):
            if sent:
                tell("perhaps cancelled")
            raise
        if may_be_cancelled(known):
            tell("not cancelled, the worker is of an earlier version")
            raise NoWorker("The worker that answers is of an earlier version, which cannot cancel")
        if known.state is not State.CANCELLED:
            tell("not cancelled, too late")
            raise TooLate
        tell("cancelled")

    async def _settle(
        self, task_id: str, equipment_id: str, needed: _Condition, publish: _Publish
    ) -> Details:
        """What the journal says of the task, once `publish` has been confirmed where that was
        needed.

        Raises `TaskNotFound`, `NoWorker`, `BrokerError`.
        """
        settling = _Settling(self._directory, task_id, equipment_id, needed, publish)
        try:
            return await Deferred.fromCoroutine(settling.run()).addTimeout(DEADLINE_S, self._clock)
        except (BrokerError, NoWorker, TimeoutError) as error:
            if settling.sent:
                raise Undecided from None
            raise (
                NoReply("The worker did not tell of the task in time")
                if isinstance(error, TimeoutError)
                else error
            ) from None


class _Settling:
    """One order's way; `sent` tells whether it may have reached the journal."""

    def __init__(
        self,
        directory: TaskQueries,
        task_id: str,
        equipment_id: str,
        needed: _Condition,
        publish: _Publish,
    ) -> None:
        self._ask: Callable[[bool], Deferred[Details | None]] = lambda barrier: directory.details(
            task_id, equipment_id, barrier=barrier
        )
        self._needed = needed
        self._publish = publish
        self.sent = False

    async def run(self) -> Details:
        known = await self._ask(False)
        if known is None and not self._needed(None):
            known = await self._ask(True)
        if self._needed(known):
            await self._send(known)
            known = await self._ask(True)
        if known is None:
            raise TaskNotFound
        return known

    async def _send(self, known: Details | None) -> None:
        self.sent = True
        try:
            await self._publish(known)
        except (BrokerUnavailable, Overloaded, Unroutable):
            self.sent = False
            raise

"""Tasks whose sealing key is not in the key file: they wait until it is added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rtprov.model import Cancelled, Event, Finished, Requested

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.interfaces import Sealer

FIRST_LOOK_S = 1.0  # before the first log line, so that one line counts a whole backlog
LOOK_EVERY_S = 10.0
REPEAT_AFTER_S = 300.0
JOURNALLED_FOR_S = 86400.0  # then `Withheld` is journalled again, before the journal drops it


@define(eq=False)
class _Missing:
    """The tasks that wait for one key. `logged` is how many the last log line counted, `logged_at`
    when it was written.
    """

    tasks: dict[str, Deferred[bool]] = field(factory=dict)
    logged: int = 0
    logged_at: float = 0.0


class MissingKeys:
    """All tasks of a worker process that wait for sealing keys.

    A session of the worker's connection: attach it after the journals. `unknown_total` counts the
    calls of `wait_for`: one for each task, and another for each day that it waits. Call `stop` when
    the process stops.
    """

    _log = Logger()

    def __init__(self, *, sealer: Sealer, clock: IReactorTime) -> None:
        self._sealer = sealer
        self._clock = clock
        self._missing: dict[str | None, _Missing] = {}
        self._look_call: IDelayedCall | None = None
        self._latest: str | None = None  # the key of the journals' latest task
        self._absent: str | None = None  # a key that the log has said is not there
        self._attached = False
        self._stopped = False
        self.unknown_total = 0
        sealer.watch(self._keys_changed)

    async def attach(self, connection: AmqpConnection) -> None:
        """The journals are replayed: check that the key of the latest task is in the key file."""
        self._attached = True
        self._compare()

    def detach(self) -> None:
        """The connection is closed. Each shard's worker cancels its waiting tasks."""
        self._attached = False

    @property
    def waiting(self) -> dict[str | None, int]:
        """How many tasks wait, by key id; the id None stands for messages that name no key."""
        return {key: len(missing.tasks) for key, missing in self._missing.items() if missing.tasks}

    def wait_for(self, task_id: str, key: str | None) -> Deferred[bool]:
        """Return a Deferred that fires with True when the task's key was added, or the task has
        ended.

        It fires with False after a day: the caller then journals again that the task waits.
        Cancelling it forgets the task.
        """
        missing = self._missing.setdefault(key, _Missing())

        def forget(_: object) -> None:
            missing.tasks.pop(task_id, None)

        waiter = missing.tasks[task_id] = Deferred(forget)
        waiter.addTimeout(JOURNALLED_FOR_S, self._clock, onTimeoutCancel=lambda *_: False)
        self.unknown_total += 1
        self._look_later(FIRST_LOOK_S if not missing.logged else LOOK_EVERY_S)
        return waiter

    def on_event(self, event: Event) -> None:
        """Call this with each of the journal's events, after the store has applied it. A task that
        has ended stops waiting.
        """
        if isinstance(event, Requested):
            if event.key is not None:
                self._latest = event.key
                if self._attached:
                    self._compare()
        elif isinstance(event, (Cancelled, Finished)):
            for missing in list(self._missing.values()):
                waiter = missing.tasks.pop(event.task_id, None)
                if waiter is not None:
                    waiter.callback(True)

    def _compare(self) -> None:
        """Log once that the latest task is sealed with a key that is missing, whether or not a task
        waits for that key here.
        """
        if self._latest not in (None, self._absent, *self._sealer.key_ids):
            self._absent = self._latest
            self._log.error(
                "the latest tasks are sealed with key {key}, which this worker's key file does not"
                " hold (it holds {keys}); such tasks wait until the key is added",
                key=self._latest,
                keys=", ".join(self._sealer.key_ids) or "none",
            )

    def stop(self) -> None:
        """Cancel the timer, and set no other one."""
        self._stopped = True
        if self._look_call is not None:
            self._look_call.cancel()
            self._look_call = None

    def _keys_changed(self) -> None:
        if self._absent in self._sealer.key_ids:
            self._absent = None
        for key, missing in list(self._missing.items()):
            if key is not None and key not in self._sealer.key_ids:
                continue
            tasks, missing.tasks = missing.tasks, {}
            if key is not None:
                del self._missing[key]
                self._log.info(
                    "sealing key {key} was added: {n} tasks that waited for it continue",
                    key=key,
                    n=len(tasks),
                )
            for waiter in tasks.values():
                if not waiter.called:  # the callback of an earlier task may have cancelled it
                    waiter.callback(True)

    # The log.

    def _look_later(self, seconds: float) -> None:
        if self._look_call is None and not self._stopped:
            self._look_call = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._look_call = None
        now = self._clock.seconds()
        for key, missing in list(self._missing.items()):
            count = len(missing.tasks)
            if not count:
                del self._missing[key]
                if missing.logged:
                    self._log.info("no task waits for {what} any longer", what=_name(key))
            elif (
                count >= 2 * missing.logged
                or 2 * count <= missing.logged
                or now - missing.logged_at >= REPEAT_AFTER_S
            ):
                missing.logged, missing.logged_at = count, now
                self._log.error(
                    "{what} is missing: {n} tasks wait for it; add it to the key file as another"
                    " line, and they continue; if the key is lost, cancel them by DELETE, first"
                    " task {first}",
                    what=_name(key),
                    n=count,
                    first=next(iter(missing.tasks)),
                )
        if self._missing:
            self._look_later(LOOK_EVERY_S)


def _name(key: str | None) -> str:
    if key is not None:
        return f"sealing key {key}"
    return "the key of tasks that do not name theirs (from an earlier version, or altered)"

"""A client that orders, asks and cancels without a pause, while a test replaces processes.

    load = SteadyLoad(a)
    load.use(clients)
    load.start()
    await load.progress()     # then replace something
    await load.end()          # no more orders; all tasks have ended
    load.check(killed)

Each order has an ``Idempotency-Key``. It is repeated until it is accepted, and now and then
afterwards. Every answer is checked at once: an accepted task is never unknown, its final status
never changes, and a key always gives the same task.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, gatherResults
from twisted.internet.task import deferLater

from tests.chaos.equipment import Call, RecordingA, reactor
from tests.support.processes import Client
from tests.support.system import REQUEST, Answer

DEVICES = 40
LOOPS = 3
MOST_OPEN = 40  # more orders wait until some tasks have ended
PAUSE_S = 0.05
ASK_EVERY = 5  # orders, after which all open tasks are asked for
CANCEL_EVERY = 7
REPEAT_EVERY = 3
ENDED_ASKED = 5  # tasks that have ended and are asked for again, each time
SETTLED_S = 5.0  # after which a call has arrived at A, or its end in the journal
COMPLETED, RUNNING, CANCELLED = 200, 204, 500


@define(eq=False)
class Ordered:
    """An accepted task: its key, the path of its status, and what was seen of it.

    `final` is the code of its final status. `cancelled` is True if a DELETE was answered 200.
    """

    device: str
    key: str
    path: str
    final: int | None = None
    cancelled: bool = False

    @property
    def task_id(self) -> str:
        return self.path.rpartition("/")[2]


class SteadyLoad:
    """The client. `a` is the service A that the workers call.

    `refused` counts the answers 503, and the connections that were lost before an answer.
    """

    def __init__(self, a: RecordingA) -> None:
        self._a = a
        self._clients: list[Client] = []
        self._random = random.Random(14)
        self._number = 0
        self._stopped = False
        self._running: Deferred[Any] | None = None
        self.tasks: list[Ordered] = []
        self.refused = 0

    def use(self, clients: Sequence[Client]) -> None:
        """Send further requests to these front ends, in turn."""
        self._clients = list(clients)

    def start(self) -> None:
        loops = [Deferred.fromCoroutine(self._run()) for _ in range(LOOPS)]
        self._running = gatherResults(loops, consumeErrors=True)

    def cancel(self) -> Deferred[None]:
        """Give up, at the end of a test that has failed."""
        self._stopped = True
        running, self._running = self._running, None
        if running is None:
            return Deferred.fromCoroutine(_nothing())
        running.cancel()
        return running.addBoth(lambda _: None)

    async def progress(self, calls: int = 15) -> None:
        """Wait until A has answered so many more calls, and some are under way."""
        wanted = self._answered() + calls
        while self._answered() < wanted or not self._a.under_way:
            await self._alive()
            await deferLater(reactor, PAUSE_S)

    async def end(self) -> None:
        """Order nothing more; done when all tasks have ended."""
        self._stopped = True
        running, self._running = self._running, None
        assert running is not None
        await running
        limit = DeferredSemaphore(LOOPS)
        while open_tasks := [task for task in self.tasks if task.final is None]:
            await gatherResults(
                [limit.run(self._ask, task) for task in open_tasks], consumeErrors=True
            )
            await deferLater(reactor, PAUSE_S)
        await gatherResults([limit.run(self._ask, task) for task in self.tasks], consumeErrors=True)

    def check(self, killed: Mapping[str, float], cut: Sequence[float] = ()) -> None:
        """Check that each task that was not cancelled was completed by one call, and that A never
        got a cancelled one.

        `killed` has the time at which each killed process died, by the name in its URL of A. The
        calls that it had under way are made again. `cut` has the times at which all connections to
        the broker broke: a standby that connects first makes the calls again that another worker
        has under way.
        """
        for task in self.tasks:
            assert task.final == (CANCELLED if task.cancelled else COMPLETED), task
            calls = self._a.calls.get(task.task_id, [])
            assert bool(calls) != task.cancelled, (task, calls)
            for call in calls[:-1]:
                assert _in_hands(call, killed, cut), (task, calls, killed, cut)
        known = {task.task_id for task in self.tasks}
        assert set(self._a.calls) <= known, set(self._a.calls) - known

    def _answered(self) -> int:
        return sum(call.answered for calls in self._a.calls.values() for call in calls)

    async def _alive(self) -> None:
        """Raise the error that has stopped the client."""
        if self._running is not None and self._running.called:
            await self._running

    async def _run(self) -> None:
        while not self._stopped:
            if sum(task.final is None for task in self.tasks) >= MOST_OPEN:
                await self._ask_all()
                await deferLater(reactor, PAUSE_S)
                continue
            self._number += 1
            number = self._number
            task = await self._order(f"UPGRADE{number % DEVICES:04}", f"key-{number}")
            if task is None:
                return
            self.tasks.append(task)
            if number % CANCEL_EVERY == 0:
                await self._cancel(task)
            if number % REPEAT_EVERY == 0:
                earlier = self._random.choice(self.tasks)
                again = await self._order(earlier.device, earlier.key)
                assert again is None or again.path == earlier.path, (earlier, again)
            if number % ASK_EVERY == 0:
                await self._ask_all()

    async def _order(self, device: str, key: str) -> Ordered | None:
        """POST until the task is accepted. None if the client is stopped before that."""
        path = f"/api/v1/equipment/cpe/{device}"
        answer = await self._insist("POST", path, REQUEST, Idempotency_Key=key)
        if answer is None:
            return None
        assert answer.status == 200, answer
        return Ordered(device, key, f"{path}/task/{answer.json['taskId']}")

    async def _cancel(self, task: Ordered) -> None:
        answer = await self._insist("DELETE", task.path)
        if answer is not None:
            assert answer.status in (200, 409), answer
            task.cancelled = answer.status == 200

    async def _ask_all(self) -> None:
        ended = [task for task in self.tasks if task.final is not None]
        again = self._random.sample(ended, min(len(ended), ENDED_ASKED))
        for task in [*(task for task in self.tasks if task.final is None), *again]:
            await self._ask(task)

    async def _ask(self, task: Ordered) -> None:
        known = task.final  # another loop may learn it before this answer arrives
        answer = await self._insist("GET", task.path, once=True)
        if answer is None:
            return
        code = answer.json["code"]
        assert code in (RUNNING, COMPLETED) or (code, task.cancelled) == (CANCELLED, True), (
            task,
            answer,
        )
        assert known in (None, code), (task, answer)
        if code != RUNNING:
            assert task.final in (None, code), (task, answer)
            task.final = code

    async def _insist(
        self, method: str, path: str, body: object = None, *, once: bool = False, **fields: str
    ) -> Answer | None:
        """Send a request until its answer is none of 503, or only `once`; else return None.

        A lost connection counts as a 503: a front end was killed.
        """
        while True:
            client = self._random.choice(self._clients)
            try:
                answer = await client.request(method, path, body, **fields)
            except (CancelledError, AssertionError):
                raise
            except Exception:
                answer = None
            if answer is not None and answer.status != 503:
                return answer
            self.refused += 1
            if once:
                return None
            await deferLater(reactor, PAUSE_S)


def _in_hands(call: Call, killed: Mapping[str, float], cut: Sequence[float]) -> bool:
    """Return whether a fault came before the end of this call was surely in the journal."""
    faults = [*cut, *(at for name, at in killed.items() if name == call.caller)]
    return any(
        call.began <= at + SETTLED_S and (call.ended is None or call.ended > at - SETTLED_S)
        for at in faults
    )


async def _nothing() -> None:
    """Done at once."""

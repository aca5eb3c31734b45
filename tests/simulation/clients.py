"""The simulated clients: each has a few tasks to run, and its random numbers decide how long it
waits, what it repeats and when it hangs up.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from rtprov.model import State
from tests.simulation.checks import Checks
from tests.simulation.links import End
from tests.simulation.network import Network
from tests.simulation.orders import Key, Order

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from tests.simulation.clock import Role
    from tests.simulation.trace import Trace

PATIENCE_S = 12.0

COMPLETED = (200, 200, "Completed")
UNKNOWN = (404, 404, "The requested task is not found")
STATES: dict[tuple[int, int, str], State | None] = {
    COMPLETED: State.COMPLETED,
    (200, 204, "Task is still running"): State.RUNNING,
    (500, 500, "Internal provisioning exception"): State.FAILED,
    (
        500,
        500,
        "The task was cancelled before it was sent to the equipment service",
    ): State.CANCELLED,
    (404, 404, "The requested equipment is not found"): State.NOT_FOUND,
    UNKNOWN: None,
}
CANCELLED = (200, 200, "Cancelled")
TOO_LATE = (
    409,
    409,
    "The task cannot be cancelled any more: it was sent to the equipment service, or has ended",
)
KEY_REUSED = (
    422,
    422,
    "This Idempotency-Key was used for this equipment before, with another body",
)


class _Exchange(Protocol):
    """One request on a connection of its own. `answer` fires with the status and the body, or fails
    if the connection is lost first.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self.answer: Deferred[tuple[int, bytes]] = Deferred(lambda _: self.hang_up())

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or self.answer.called:
            return
        lines = head.split(b"\r\n")
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        if len(body) >= int(fields[b"content-length"]):
            self.hang_up()
            self.answer.callback((int(lines[0].split()[1]), body))

    def hang_up(self) -> None:
        cast("End", self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answer.called:
            self.answer.errback(ConnectionLost())


class _Exchanges(Factory):
    noisy = False

    def __init__(self, request: bytes) -> None:
        self._request = request

    def buildProtocol(self, addr: object) -> _Exchange:
        return _Exchange(self._request)


@define(eq=False)
class Client:
    """Posts its orders one after another and polls each task until it has ended, and sometimes
    after that.

    `wild` clients poll without a pause. `fickle` is how often, from 0 to 1, it cancels a task or
    repeats a POST that has a key, its own or another client's.
    """

    role: Role
    rng: random.Random
    network: Network
    checks: Checks
    trace: Trace
    frontend: str  # the one that it prefers
    frontends: Sequence[str]
    orders: Sequence[Order]
    wild: bool
    fickle: float
    until: float  # when it stops to cancel and to repeat
    new_order: Callable[[str, Key | None], Order]
    _accepted: list[Order] = field(factory=list)

    @property
    def clock(self) -> IReactorTime:
        return self.role.clock

    def run(self) -> Deferred[None]:
        """Run the client. The Deferred fires when all its tasks have ended."""
        return Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        for order in self.orders:
            await self._sleep(self.rng.random() * self.rng.choice([0.0, 1.0, 20.0]))
            accepted = await self._order(order)
            if self.rng.random() < self.fickle:
                await self._cancel_or_repeat()
            elif self.rng.random() < 0.3 and accepted is not None:
                await self._poll(accepted)
            if self.rng.random() < 0.5 and self._accepted:
                await self.ask(self.rng.choice(self._accepted))  # perhaps asks once more
        for order in self._accepted:
            await self._poll(order)
        while self.role.world.now < self.until and self._accepted:
            await self._sleep(self.rng.random() * 20.0)
            if self.rng.random() < self.fickle:
                await self._cancel_or_repeat()
            await self.ask(self.rng.choice(self._accepted))

    async def _order(self, order: Order) -> Order | None:
        """Post an order until it is accepted or refused, or give up after a few tries.

        Without a key each try is a separate order, because an earlier try may have been accepted
        too.
        """
        if order.key is not None and self.rng.random() < 0.5:
            await self._race(order)
        for _ in range(4):
            if await self.post(order):
                return order if order.task_id is not None else None
            await self._sleep(self.rng.random() * 5.0)
            if order.key is None:
                order = self.new_order(order.device, None)
        return None

    async def _race(self, order: Order) -> None:
        """Post the order, another body with the same key, and sometimes the order once more, all at
        the same time.
        """
        rivals = [order, self.new_order(order.device, order.key), order][: self.rng.choice([2, 3])]
        self.rng.shuffle(rivals)
        await gatherResults([Deferred.fromCoroutine(self.post(each)) for each in rivals])

    async def _cancel_or_repeat(self) -> None:
        """Cancel a task, perhaps more than once, or repeat POSTs that have a key; some of these at
        the same time.
        """
        accepted = list(self.checks.accepted.values())
        keyed = [order for order in self.checks.orders.values() if order.key is not None]
        mine = self._accepted[-1:] if self.rng.random() < 0.5 else []
        requests: list[Deferred[bool]] = []
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            if keyed and self.rng.random() < 0.5:
                requests.append(Deferred.fromCoroutine(self.post(self.rng.choice(keyed))))
            elif accepted:
                requests.append(
                    Deferred.fromCoroutine(self.cancel(self.rng.choice(mine or accepted)))
                )
            if self.rng.random() < 0.5:
                await self._sleep(self.rng.random() * self.rng.choice([0.1, 3.0]))
        await gatherResults(requests)

    async def _poll(self, order: Order) -> None:
        pause_s = 0.05 if self.wild else 1.0
        while order.final is None and not order.unknown and self.checks.broken is None:
            await self.ask(order)
            await self._sleep(pause_s * (0.5 + self.rng.random()))
            pause_s = min(pause_s * 2, 20.0)

    def see(self, order: Order) -> Deferred[None]:
        """Repeat all requests for an order that the broker has, until each is answered."""
        return Deferred.fromCoroutine(self._see(order))

    async def _see(self, order: Order) -> None:
        if order.key is not None:
            await self._until_answered(self.post, order)
        if order.task_id is not None:
            await self._until_answered(self.ask, order)
            # If the order is accepted only now, its final status is new to this client.
            await self._poll(order)
            if self.rng.random() < 0.5:
                await self._until_answered(self.cancel, order)

    async def _until_answered(
        self, request: Callable[[Order], Coroutine[Any, Any, bool]], order: Order
    ) -> None:
        while not await request(order) and self.checks.broken is None:
            await self._sleep(1.0)

    # The requests. Each returns whether there was an answer other than 503.

    async def post(self, order: Order) -> bool:
        """Send one POST."""
        key = order.key.text if order.key is not None else None
        restores = self.checks.restores.count
        answer = await self._request(
            "POST", order.device, "", order.body, f"order {order.number}", key
        )
        if answer is None or answer[0] == 503:
            return False
        if order.key is not None and _answer_of(answer) == KEY_REUSED:
            self.trace.note(
                f"{self.role.name}: order {order.number} is refused",
                order.key.task_id,
                order.device,
            )
            self.checks.on_refused(order)
            return True
        self.checks.expect(answer[0] == 200, f"POST was answered {answer}", None, order.device)
        if answer[0] == 200:
            task_id = answer[1]["taskId"]
            self.trace.note(
                f"{self.role.name}: order {order.number} for {order.device} is task {task_id}",
                task_id,
                order.device,
            )
            self.checks.on_accepted(order, task_id, began_after=restores)
            if order not in self._accepted:
                self._accepted.append(order)
        return True

    async def ask(self, order: Order) -> bool:
        """Send one GET."""
        known = order.final
        answer = await self._request(
            "GET", order.device, f"/task/{order.task_id}", None, f"status of {order.task_id}"
        )
        if answer is None or answer[0] == 503:
            return False
        answered = _answer_of(answer)
        self.checks.expect(
            answered in STATES, f"GET was answered {answered}", order.task_id, order.device
        )
        state = STATES.get(answered)
        self.trace.note(
            f"{self.role.name}: {order.task_id} is {state.value if state else 'not found'}",
            order.task_id,
            order.device,
        )
        self.checks.on_status(order, state, known)
        return True

    async def cancel(self, order: Order) -> bool:
        """Send one DELETE."""
        self.checks.on_cancelling(order)
        answer = await self._request(
            "DELETE", order.device, f"/task/{order.task_id}", None, f"task {order.task_id}"
        )
        if answer is None or answer[0] == 503:
            return False
        answered = _answer_of(answer)
        if order.lost and answered == UNKNOWN:
            self.checks.on_status(order, None, None)
            return True
        self.checks.expect(
            answered in (CANCELLED, TOO_LATE),
            f"DELETE was answered {answered}",
            order.task_id,
            order.device,
        )
        self.trace.note(
            f"{self.role.name}: to cancel {order.task_id}: {answered[0]}",
            order.task_id,
            order.device,
        )
        if answered == CANCELLED:
            self.checks.on_cancelled(order)
        else:
            self.checks.on_too_late(order)
        return True

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self.clock, seconds)

    async def _request(
        self,
        method: str,
        device: str,
        rest: str,
        body: bytes | None,
        what: str,
        key: str | None = None,
    ) -> tuple[int, dict[str, Any]] | None:
        """Return status and document, or None if there was no answer: the connection was refused or
        lost, the request timed out, or the client hung up.
        """
        head = f"{method} /api/v1/equipment/cpe/{device}{rest} HTTP/1.1\r\nHost: b\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        if key is not None:
            head += f"Idempotency-Key: {key}\r\n"
        if body is not None and len(body) % 3:
            head += f"Priority: u={len(body) % 8}\r\n"
        request = f"{head}\r\n".encode() + (body or b"")
        frontend = self.frontend if self.rng.random() < 0.7 else self.rng.choice(self.frontends)
        try:
            exchange = cast(
                "_Exchange",
                await self.network.endpoint(self.role, frontend).connect(_Exchanges(request)),
            )
        except Exception:
            return None
        link = cast("End", exchange.transport).link
        patience_s = PATIENCE_S
        if self.role.world.now < self.until and self.rng.random() < 0.08:
            patience_s = self.rng.random() * self.rng.choice([0.02, 5.0])  # it hangs up
        began, given_up = self.role.world.now, False
        try:
            status, document = await exchange.answer.addTimeout(patience_s, self.clock)
        except Exception:
            given_up = True
        if given_up:
            self.trace.note(f"{self.role.name}: no answer to {method} {what}", None, device)
            if patience_s == PATIENCE_S:
                self.checks.on_exchange(link, self.role.world.now - began, what)
            return None
        self.checks.on_exchange(link, self.role.world.now - began, what)
        if status == 503:
            self.trace.note(
                f"{self.role.name}: {status} to {method} {what}: {document.decode()}", None, device
            )
        return status, json.loads(document)


def _answer_of(answer: tuple[int, dict[str, Any]]) -> tuple[int, int, str]:
    return answer[0], answer[1]["code"], answer[1].get("message", "")

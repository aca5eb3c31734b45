"""The simulated service A: it remembers every call, and misbehaves as its mood demands.

It implements as much HTTP as the worker's real client needs, independently of the worker's code.
Task statuses are checked against the calls that it remembers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from attrs import define, field
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.simulation.clock import Role
from tests.simulation.links import End

SUCCESS = b'{"code": 200, "message": "success"}'
NOT_FOUND = b'{"code": 404, "message": "The requested equipment is not found"}'
FAILURE = b'{"code": 500, "message": "Internal provisioning exception"}'
REASONS = {
    200: "OK",
    404: "Not Found",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}

LONGEST_RETRY_AFTER_S = 7.0
IN_TIME_S = 60.0  # half a minute before the shortest of the worker's deadlines

# By mood: what A may do with a call, and how often (relative weights).
MOODS: dict[str, dict[str, float]] = {
    "calm": {"success": 1.0},
    "normal": {"success": 12.0, "unknown": 0.5, "failure": 0.7, "slow": 1.0},
    "busy": {"success": 1.0, "busy": 3.0},
    "down": {"gateway": 1.0, "drop": 1.0, "reset": 1.0},
    "hanging": {"success": 1.0, "hang": 1.0},
    "late": {"success": 2.0, "late": 1.0},
    "broken": {"success": 2.0, "garbage": 1.0, "nonsense": 1.0, "cut short": 1.0, "drop": 1.0},
}


@define(eq=False)
class Call:
    """One call as A saw it. The worker began to send, or to connect if it had to, at `begun_at`. A
    sent its answer at `answered_at`.
    """

    number: int
    task_id: str
    device: str
    body: bytes
    worker: Role
    end: End  # A's end
    begun_at: float
    came_at: float
    conduct: str = ""
    answered_at: float | None = None
    succeeded: bool = False

    @property
    def in_time(self) -> bool:
        """Whether a success left A long before any deadline, and the network delivered it to the
        worker's machine.
        """
        answered_in_s = math.inf if self.answered_at is None else self.answered_at - self.came_at
        return self.succeeded and answered_in_s < IN_TIME_S and not self.end.link.harmed

    def over_at(self, now: float) -> float | None:
        """Return when the worker was done with the call, as far as can be known; None if it is
        still under way at `now`.
        """
        ends = [
            each
            for each in (self.answered_at, self.end.other.lost_at)
            if each is not None and each <= now
        ]
        return min(ends, default=None)


@define(eq=False)
class ServiceA(Factory):
    """The server. `on_call` is called with each call before it is answered, `on_answer` right
    before the answer is sent.
    """

    role: Role
    rng: random.Random
    on_call: Callable[[Call], None]
    on_answer: Callable[[Call], None]
    delay_s: float = 3.0
    mood: str = "normal"
    calls: list[Call] = field(factory=list)

    noisy = False

    def buildProtocol(self, addr: object) -> Protocol:
        return _Connection(self)

    def conduct(self) -> str:
        """Choose what to do with the next call."""
        choices = MOODS[self.mood]
        return self.rng.choices(list(choices), list(choices.values()))[0]


class _Connection(Protocol):
    def __init__(self, service: ServiceA) -> None:
        self._service = service
        self._received = b""
        self._calls = 0
        self._begun_at = 0.0

    def connectionMade(self) -> None:
        assert isinstance(self.transport, End)
        self._begun_at = self.transport.link.dialed_at

    def dataReceived(self, data: bytes) -> None:
        if not self._received and self._calls:
            assert isinstance(self.transport, End)
            self._begun_at = self.transport.other.last_write
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        request, *lines = head.split(b"\r\n")
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines)
        }
        if len(body) < int(fields[b"content-length"]):
            return
        self._received = b""
        transport = self.transport
        assert isinstance(transport, End)
        service = self._service
        call = Call(
            len(service.calls) + 1,
            fields[b"idempotency-key"].decode(),
            request.split()[1].rpartition(b"/")[2].decode(),
            body,
            transport.other.role,
            transport,
            self._begun_at,
            service.role.world.now,
        )
        call.conduct = service.conduct()
        service.calls.append(call)
        self._calls += 1
        service.on_call(call)
        self._behave(call)

    def _behave(self, call: Call) -> None:
        service, rng = self._service, self._service.rng
        delay_s = service.delay_s * (0.1 + rng.random())
        if call.conduct in ("late", "slow"):
            delay_s = rng.uniform(80.0, 200.0) if call.conduct == "late" else rng.uniform(5.0, 80.0)
        elif call.conduct in ("busy", "gateway", "drop", "reset"):
            delay_s = min(delay_s, 0.5)
        if call.conduct != "hang":
            service.role.world.call_later(service.role, delay_s, self._answer, call)

    def _answer(self, call: Call) -> None:
        rng = self._service.rng
        status, body, fields = 200, SUCCESS, ""
        if call.conduct == "unknown":
            status, body = 404, NOT_FOUND
        elif call.conduct == "failure":
            status, body = 500, FAILURE
        elif call.conduct == "busy":
            status, body, fields = (
                503,
                b"busy",
                rng.choice(
                    ["", "Retry-After: 1\r\n", f"Retry-After: {LONGEST_RETRY_AFTER_S:.0f}\r\n"]
                ),
            )
        elif call.conduct == "gateway":
            status, body = 502, b"<html>bad gateway</html>"
        elif call.conduct == "garbage":
            body = rng.choice(
                [b"<garbage>", b'{"code": 500}', b'{"code": "200"}', b"", b"\xff\xfe", b"[" * 2000]
            )
        answer = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\n{fields}".encode()
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        if call.conduct == "nonsense":
            answer = rng.choice(
                [b"\x00\x01\x02\r\n\r\n", b"HTTP/9 hello\r\n\r\n", b"HTTP/1.1 2OO OK\r\n\r\n"]
            )
        elif call.conduct == "cut short":
            answer = answer[: rng.randrange(len(answer))]
        elif call.conduct in ("drop", "reset"):
            answer = b""
        call.succeeded = call.conduct in ("success", "slow", "late")
        call.answered_at = self._service.role.world.now
        self._service.on_answer(call)
        transport = self.transport
        assert isinstance(transport, End)
        transport.write(answer)
        if call.conduct == "reset":
            transport.abortConnection()
        elif call.conduct in ("drop", "cut short", "nonsense"):
            transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Ignore the loss: A carries out the call all the same."""

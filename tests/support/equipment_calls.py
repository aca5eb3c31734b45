"""A test case for calls to service A, against a server that sends what the test wants."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from rtprov.equipment.client import HttpEquipment, equipment_agent
from rtprov.errors import EquipmentUnreachable
from rtprov.model import State, Task
from tests.support.memory import MemoryNetwork, MemoryTransport

if TYPE_CHECKING:
    from twisted.web.iweb import IAgent

BODY = '{"timeoutInSeconds": 14, "parameters": [{"password": "пароль"}]}'.encode()


class RawServer(Protocol):
    """Collects what the client sends, and sends what the test wants."""

    def __init__(self, received: bytearray) -> None:
        self.received = received

    def dataReceived(self, data: bytes) -> None:
        self.received += data


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class CallsTestCase(SynchronousTestCase):
    """Single calls, against a server that sends what the test wants."""

    def setUp(self) -> None:
        self.logged: list[str] = []
        observer = cast("ILogObserver", self._observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.received = bytearray()
        self.network.listen("a").listen(Factory.forProtocol(lambda: RawServer(self.received)))
        self.equipment = self.equipment_with(
            equipment_agent(self.network.connect("a"), concurrency=10, clock=self.reactor)
        )

    def _observe(self, event: LogEvent) -> None:
        """Keep what rtprov logs."""
        if event["log_namespace"].startswith("rtprov"):
            self.logged.append(formatEvent(event))

    @property
    def reactor(self) -> IReactorTime:
        return cast("IReactorTime", self.clock)

    def equipment_with(self, agent: IAgent) -> HttpEquipment:
        return HttpEquipment(
            agent=agent, base_url="https://a/", clock=self.reactor, wall_clock=self.clock.seconds
        )

    def call(self) -> Deferred[tuple[State, str]]:
        task = Task("0123456789abcdef" * 2, "ABC123456", 14, 0.0, "sealed")
        outcome = self.equipment.configure(task, BODY)
        self.network.settle()
        return outcome

    def server(self) -> MemoryTransport:
        return self.network.connections[-1][1].other

    def say(self, data: bytes) -> None:
        self.server().write(data)
        self.network.settle()

    def assertUnreachable(self, outcome: Deferred[tuple[State, str]]) -> EquipmentUnreachable:
        return cast(
            "EquipmentUnreachable", self.failureResultOf(outcome, EquipmentUnreachable).value
        )

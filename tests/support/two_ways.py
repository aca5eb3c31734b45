"""A front end in memory for comparisons: all that its clients and its log say is remembered.

    told = [Conversation(fast_lane=each).run(steps) for each in (True, False)]
    self.assertEqual(*told)

A step is a function that is called with the `Conversation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import CancelledError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from rtprov.frontend.resource import Frontend
from rtprov.http.admission import Admission
from rtprov.http.counting_site import CountingSite
from rtprov.http.fast_lane import PlainHead, PlainRoutes
from rtprov.http.refusals import Refusals
from rtprov.http.same_origin import SameOrigin
from rtprov.http.traffic import Traffic
from rtprov.model import State
from rtprov.readiness import Readiness
from rtprov.security.limits import Rate
from rtprov.security.tokens import Role, new_token
from tests.support.both_ways import comparable
from tests.support.fakes import PlainSealer
from tests.support.front import FakeDirectory, FakeEnds, FakeStatuses, FakeTasks
from tests.support.memory import MemoryNetwork
from tests.support.raw_http import RawClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.iweb import IRequest

LINGER_S = 300.0
ORDER_TOKEN, ORDER = new_token("billing")
READ_TOKEN, READ = new_token("dash", role=Role.READ)


class CountedRoutes(PlainRoutes):
    """Routes that count the requests that take the fast lane."""

    taken = 0

    def handler(self, head: PlainHead) -> Callable[[IRequest], Deferred[bytes]] | None:
        found = super().handler(head)
        self.taken += found is not None
        return found


class Conversation:
    """Clients of one front end, whose broker is replaced by fakes.

    With `tokens`, requests need a bearer token; `per_s` is the rate for each caller.
    """

    def __init__(
        self,
        *,
        fast_lane: bool,
        tokens: bool = False,
        per_s: float | None = None,
        running: int = 200,
    ) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        clock = cast("IReactorTime", self.clock)
        self.tasks, self.statuses = FakeTasks(), FakeStatuses()
        self.ends = FakeEnds()
        self.lines: list[str] = []
        self.clients: list[RawClient] = []
        frontend = Frontend(
            tasks=self.tasks,
            statuses=self.statuses,
            directory=FakeDirectory(self.tasks.store),
            ends=self.ends,
            readiness=Readiness(self._probe, clock),
            sealer=PlainSealer(),
            clock=clock,
            new_task_id=lambda: f"{len(self.tasks.submitted):032x}",
            wall_clock=lambda: 1000.0 + self.clock.seconds(),
            running_status=running,
            process_id="f1",
            operators=None,  # type: ignore[arg-type] # not used
        )
        resource = cast("SameOrigin", frontend.resource())
        plain = resource.plain_routes
        assert plain is not None
        self.routes = CountedRoutes(plain.app, plain.endpoints)
        resource.plain_routes = self.routes if fast_lane else None
        self.traffic = Traffic(
            (rule.rule for rule in Frontend.app.url_map.iter_rules()), self.clock.seconds
        )
        self.site = CountingSite(
            resource,
            reactor=clock,
            admission=Admission(
                now=self.clock.seconds,
                wall_clock=self.clock.seconds,
                tokens=(ORDER_TOKEN, READ_TOKEN) if tokens else None,
                rate=None if per_s is None else Rate(per_s),
            ),
            refusals=Refusals(clock),
            traffic=self.traffic,
        )
        self.network.listen("b").listen(self.site)

    async def _probe(self) -> None:
        pass

    def run(self, steps: Iterable[Callable[[Conversation], object]]) -> list[object]:
        """Take all steps, wait for a while, and hang up. Return all that was said."""
        with self._log_read():
            for step in steps:
                step(self)
            self.network.advance(LINGER_S)
            said: list[object] = [
                (comparable(client.received), client.lost) for client in self.clients
            ]
            for client in self.clients:
                client.hang_up()
        submitted = [
            (task.task_id, task.equipment_id, task.caller) for task in self.tasks.submitted
        ]
        timers = [call.getTime() for call in self.clock.getDelayedCalls()]
        counts = [
            (metric.name, sorted((str(sample.labels), sample.value) for sample in metric.samples))
            for metric in self.traffic.metrics()
        ]
        return [
            *said,
            *self.lines,
            submitted,
            self.tasks.cancelled,
            self.site.under_way,
            timers,
            counts,
        ]

    @contextmanager
    def _log_read(self) -> Iterator[None]:
        observer = cast("ILogObserver", self._note)
        globalLogPublisher.addObserver(observer)
        try:
            yield
        finally:
            globalLogPublisher.removeObserver(observer)

    def _note(self, event: LogEvent) -> None:
        self.lines.append(f"{self.clock.seconds()} {event['log_namespace']}: {formatEvent(event)}")
        if "log_failure" in event:
            self.lines.append(repr(event["log_failure"].value))

    # Steps.

    def client(self, number: int) -> RawClient:
        """Return a client, which is connected when it is first asked for."""
        while len(self.clients) <= number:
            self._connect(RawClient(self.network, None))
        return self.clients[number]

    def _connect(self, client: RawClient) -> None:
        self.clients.append(client)
        self.network.connect("b").connect(Factory.forProtocol(lambda: client))
        self.network.settle()

    def send(self, number: int, parts: Sequence[bytes]) -> None:
        """Send parts, which arrive in different turns."""
        client = self.client(number)
        for piece in parts:
            if piece and not client.lost:
                client.send(piece)

    def burst(self, number: int, parts: Sequence[bytes]) -> None:
        """Deliver parts within one turn, as TLS does with its records."""
        transport = cast("Any", self.client(number).transport)
        for piece in parts:
            if piece and transport.other.connected and transport.other.reading:
                transport.other.protocol.dataReceived(piece)
        self.network.settle()

    def answer(self, outcome: State | Exception | None) -> None:
        """Answer the questions that wait for a worker."""
        asked, self.statuses.asked = self.statuses.asked, []
        ended, self.ends.waiting = self.ends.waiting, []
        for waiter in [*asked, *(each for _, _, each in ended)]:
            if waiter.called:
                continue
            waiter.addErrback(lambda reason: reason.trap(CancelledError) and None)
            if isinstance(outcome, Exception):
                waiter.errback(outcome)
            else:
                waiter.callback(outcome)
        self.network.settle()

"""The whole system in memory: the stub of A, front ends, workers and the embedded broker, on one
virtual clock.

    system = System()
    system.start()
    answer = system.post("ABC123456", {"timeoutInSeconds": 14, "parameters": [{"vlan": 534}]})
    system.network.advance(61)
    system.get("ABC123456", answer.json["taskId"]).json   # {"code": 200, "message": "Completed"}

Only the network and the clock are fake. HTTP uses Twisted's own client and server, AMQP uses
rtprov's client and broker.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from attrs import define, field, frozen
from cryptography.fernet import Fernet
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers

from rtprov.amqp.client.url import BrokerUrl
from rtprov.broker.server.broker import make_broker
from rtprov.broker.server.factory import BrokerFactory
from rtprov.broker.storage.memory import MemoryStorage
from rtprov.clocks import WallClock
from rtprov.equipment.client import BytesBody, HttpEquipment, equipment_agent
from rtprov.equipment.scenario import Rule
from rtprov.equipment.stub import Stub
from rtprov.frontend.service import FrontendService
from rtprov.history.history import History
from rtprov.http.site import JsonSite
from rtprov.messaging.environment import Environment
from rtprov.messaging.first_key import KeySource
from rtprov.messaging.topology import Shard
from rtprov.security.sealer import FernetSealer
from rtprov.worker.service import WorkerService
from rtprov.worker.settings import WorkerSettings
from tests.support.memory import MemoryNetwork, http_client

NONE: Mapping[str, str] = {}
EPOCH = 1_800_000_000.0
REQUEST = {
    "timeoutInSeconds": 14,
    "parameters": [{"username": "admin"}, {"password": "s3cr3t-пароль"}, {"vlan": 534}],
}


@frozen
class Answer:
    """A complete HTTP answer."""

    status: int
    headers: Headers
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None


@define(eq=False, slots=False)
class System:
    """One broker ("broker"), one A ("a"), and as many front ends ("b", "b2" …) and workers as a
    test starts.
    """

    delay_s: float = 60.0
    seed: int = 1
    shards: int = 1
    concurrency: int = 500
    retention_s: float = 86400.0
    patience_s: float = 600.0
    drain_s: float = 120.0
    batch_events: bool = False
    running_status: int = 200
    rules: Iterable[Rule] = ()
    clock: Clock = field(factory=Clock)
    network: MemoryNetwork = field(init=False)
    wall_clock: WallClock = field(init=False)
    frontends: dict[str, FrontendService] = field(factory=dict)
    workers: list[WorkerService] = field(factory=list)
    histories: list[History] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.network = MemoryNetwork(self.clock)
        self.wall_clock = WallClock(lambda: EPOCH + self.clock.seconds(), self.clock.seconds)
        self._rng = random.Random(self.seed)
        self.sealer = FernetSealer([Fernet.generate_key()])
        self._client = http_client(self.network)

    # Services.

    def start(self) -> None:
        """Start one of each, and wait until all are connected."""
        self.start_broker()
        self.start_stub()
        self.start_frontend()
        self.start_worker()
        connections = [role.connection for role in self.frontends.values()] + [
            role.connection for role in self.workers
        ]
        self.network.until(lambda: all(connection.connected for connection in connections), 10.0)

    def start_broker(self) -> None:
        self.broker = make_broker(clock=self.clock, storage=MemoryStorage())
        self.network.listen("broker").listen(BrokerFactory(self.broker))

    def start_stub(self) -> Stub:
        self.stub = Stub(
            clock=self.clock, delay_s=self.delay_s, honour_timeout=False, rules=tuple(self.rules)
        )
        self._serve("a", self.stub)
        return self.stub

    def start_frontend(
        self,
        name: str = "b",
        *,
        sealer: FernetSealer | None = None,
        key_source: KeySource | None = None,
    ) -> FrontendService:
        service = FrontendService(
            self._environment(),
            sealer=sealer or self.sealer,
            key_source=key_source,
            shards=self.shards,
            running_status=self.running_status,
        )
        self.frontends[name] = service
        self._serve(name, service.frontend)
        service.startService()
        return service

    def start_worker(
        self,
        *,
        concurrency: int | None = None,
        shards: Iterable[int] | None = None,
        sealer: FernetSealer | None = None,
        key_source: KeySource | None = None,
        history: Path | None = None,
    ) -> WorkerService:
        """Start a worker. With `history`, it keeps a history in that folder."""
        settings = WorkerSettings(
            shards=[
                Shard(index, self.shards)
                for index in (range(self.shards) if shards is None else shards)
            ],
            concurrency=concurrency or self.concurrency,
            retention_s=self.retention_s,
            patience_s=self.patience_s,
            drain_s=self.drain_s,
            batch_events=self.batch_events,
        )
        agent = equipment_agent(
            self.network.connect("a"), concurrency=settings.concurrency, clock=self.clock
        )
        equipment = HttpEquipment(
            agent=agent, base_url="http://a", clock=self.clock, wall_clock=self.wall_clock
        )
        service = WorkerService(
            self._environment(),
            settings,
            equipment=equipment,
            sealer=sealer or self.sealer,
            key_source=key_source,
            history=None if history is None else self._start_history(history),
        )
        self.workers.append(service)
        service.startService()
        return service

    def _start_history(self, directory: Path) -> History:
        history = History(
            directory,
            400,
            run=maybeDeferred,
            monotonic=self.clock.seconds,
            clock=self.clock,
            wall_clock=self.wall_clock,
        )
        history.privilegedStartService()
        history.startService()
        self.histories.append(history)
        return history

    def stop_worker(self, index: int) -> None:
        """Stop a worker at once, and its history, as twistd would."""
        worker = self.workers[index]
        worker.stop_now()
        stopped = worker.stopService()
        self.network.until(lambda: bool(stopped.called), 10.0)
        if worker.history is not None:
            worker.history.stopService()

    def stop(self) -> None:
        """Stop all services, as twistd would. Afterwards no timer is left."""
        stopped = [role.stopService() for role in [*self.frontends.values(), *self.workers]]
        self.network.until(lambda: all(each.called for each in stopped))
        for history in self.histories:
            if history.running:
                history.stopService()
        self.broker.stop()
        self.network.settle()

    # Requests.

    def post(
        self, equipment_id: str, body: object = REQUEST, frontend: str = "b", key: str | None = None
    ) -> Answer:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.request(
            "POST", f"/api/v1/equipment/cpe/{equipment_id}", body, frontend, headers
        )

    def get(self, equipment_id: str, task_id: str, frontend: str = "b") -> Answer:
        return self.request(
            "GET", f"/api/v1/equipment/cpe/{equipment_id}/task/{task_id}", None, frontend
        )

    def accepted(self, equipment_id: str, body: object = REQUEST, frontend: str = "b") -> str:
        """POST a task, which must be accepted; return its id."""
        answer = self.post(equipment_id, body, frontend)
        assert answer.status == 200, answer
        return cast("str", answer.json["taskId"])

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        frontend: str = "b",
        headers: Mapping[str, str] = NONE,
    ) -> Answer:
        """Send one request, and advance the clock until it is answered."""
        pending = self.send(method, path, body, frontend, headers)
        self.network.until(lambda: bool(pending.called), 10.0)
        return cast("Answer", pending.result)

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        frontend: str = "b",
        headers: Mapping[str, str] = NONE,
    ) -> Deferred[Answer]:
        """Begin a request; it proceeds as the clock advances."""
        data = (
            body
            if isinstance(body, bytes) or body is None
            else json.dumps(body, ensure_ascii=False).encode()
        )
        return Deferred.fromCoroutine(self._send(method, f"http://{frontend}{path}", data, headers))

    async def _send(
        self, method: str, url: str, data: bytes | None, fields: Mapping[str, str]
    ) -> Answer:
        headers = Headers({"Content-Type": ["application/json"]} if data is not None else {})
        for name, value in fields.items():
            headers.setRawHeaders(name, [value])
        body = None if data is None else BytesBody(data)
        response = await self._client.request(
            method, url, data=body, headers=headers, allow_redirects=False
        )
        return Answer(response.code, response.headers, await response.content())

    # Internal.

    def _serve(self, name: str, role: Any) -> None:
        self.network.listen(name).listen(JsonSite(role.resource(), reactor=self.clock))

    def _environment(self) -> Environment:
        return Environment(
            clock=self.clock,
            wall_clock=self.wall_clock,
            rng=random.Random(self._rng.random()),
            new_id=lambda: f"{self._rng.getrandbits(128):032x}",
            broker=self.network.connect("broker"),
            broker_url=BrokerUrl.parse("amqp://guest:guest@broker/"),
        )

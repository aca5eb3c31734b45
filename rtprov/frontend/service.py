"""The front end as a Twisted service: its connection to the broker and its HTTP resource."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rtprov.amqp.client.permissions import MayPublish
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.rpc import RpcClient
from rtprov.amqp.client.service import Session
from rtprov.frontend.operators.broker_watch import BrokerWatch
from rtprov.frontend.operators.event_hub import EventHub
from rtprov.frontend.operators.routes import OperatorRequests
from rtprov.frontend.operators.summary import Summaries
from rtprov.frontend.operators.task_search import TaskSearches
from rtprov.frontend.readiness import readiness_of_frontend
from rtprov.frontend.resource import Frontend
from rtprov.frontend.task_publisher import TaskPublisher
from rtprov.interfaces import Sealer
from rtprov.messaging.environment import (
    CONFIRM_DEADLINE_S,
    MAX_UNCONFIRMED,
    Environment,
    broker_connection,
)
from rtprov.messaging.first_key import KeySource, first_key_sessions
from rtprov.messaging.shard_count import ShardCount
from rtprov.messaging.topology import (
    STATUS_EXCHANGE,
    TASKS_EXCHANGE,
    Shard,
    Topology,
)
from rtprov.queries.directory import TaskQueryClient
from rtprov.queries.report_client import ReportClient
from rtprov.queries.shared_keys import SharedKeys
from rtprov.queries.status import StatusClient
from rtprov.queries.watches import CompletionWatcher
from rtprov.tracing.spans import NO_SPANS, Spans

PUBLISHED_TO_BY_FRONTEND = (TASKS_EXCHANGE, STATUS_EXCHANGE)


class FrontendService(Service):
    """Connect a front end to the broker; `frontend` has the HTTP resource to serve.

    `process_id` identifies this process in the details of tasks. `key_source` provides the first
    sealing key if `sealer` has none yet. The service works with `shards` shards. With
    `shards_given` the operator set this number, and a broker with another number is an error (see
    `rtprov.messaging.shard_count`). `spans` records the spans of POSTs.
    """

    _log = Logger()

    def __init__(
        self,
        environment: Environment,
        *,
        sealer: Sealer,
        shards: int,
        running_status: int,
        max_unconfirmed: int = MAX_UNCONFIRMED,
        key_source: KeySource | None = None,
        shards_given: bool = True,
        spans: Spans = NO_SPANS,
    ) -> None:
        clock = environment.clock
        self.process_id = environment.new_id()[:12]
        self.shard_count = ShardCount(shards, given=shards_given)
        topology = Topology(
            [Shard(index, shards) for index in range(shards)], count=self.shard_count
        )
        self.publisher = publisher = Publisher(
            clock=clock,
            max_unconfirmed=max_unconfirmed,
            confirm_deadline_s=CONFIRM_DEADLINE_S,
            on_unroutable=topology.repair,
        )
        rpc = RpcClient(clock=clock)
        statuses = StatusClient(
            rpc=rpc, shards=shards, clock=clock, verify_shard_count=self.shard_count.verify
        )
        may_publish = MayPublish(publisher, PUBLISHED_TO_BY_FRONTEND)
        self.keys = keys = SharedKeys(rpc=rpc, sealer=sealer, shards=shards, clock=clock)
        broker = BrokerWatch(clock.seconds)
        first_key = first_key_sessions(key_source, shards, publisher, environment)
        sessions: list[Session] = [
            self.shard_count,
            topology,
            publisher,
            may_publish,
            *first_key,
            rpc,
            statuses,
            keys,
            broker,
        ]
        directory = TaskQueryClient(rpc=rpc, shards=shards)
        reports = ReportClient(rpc=rpc, shards=shards, clock=clock, name=self.process_id)
        summaries = Summaries(reports=reports, broker=broker, wall_clock=environment.wall_clock)
        self.events = EventHub(
            reports=reports, summaries=summaries, clock=clock, name=self.process_id
        )
        self.connection = broker_connection("frontend", environment, sessions)
        self.ends = CompletionWatcher(rpc=rpc, shards=shards, clock=clock)
        self.readiness = readiness_of_frontend(publisher, rpc, shards, keys, clock)
        self.frontend = Frontend(
            tasks=TaskPublisher(
                publisher=publisher,
                shards=shards,
                refusal=keys.refusal,
                repaired=topology.repaired,
            ),
            statuses=statuses,
            directory=directory,
            ends=self.ends,
            readiness=self.readiness,
            operators=OperatorRequests(
                summaries,
                TaskSearches(reports=reports, directory=directory, clock=clock),
                self.events,
            ),
            sealer=sealer,
            clock=clock,
            new_task_id=environment.new_id,
            wall_clock=environment.wall_clock,
            running_status=running_status,
            process_id=self.process_id,
            spans=spans,
        )

    def startService(self) -> None:
        super().startService()
        self._log.info("starting front end {process_id}", process_id=self.process_id)
        self.connection.startService()

    def release(self) -> None:
        """Answer the requests that wait for something to happen, and end event streams."""
        self.ends.stop()
        self.events.stop()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.release()
        return self.connection.stopService()

"""A test case for work on a broker whose number of shards is stored, changed, or moved."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from twisted.internet.defer import Deferred

from rtprov.amqp.client.consumer import consume
from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.errors import BrokerUnavailable, ConfigurationError
from rtprov.messaging.event_batches import events_in
from rtprov.messaging.event_messages import decode_event
from rtprov.messaging.shard_count import ShardCount
from rtprov.messaging.topology import Shard, Topology
from rtprov.model import Event, Marker, TaskEvent
from tests.support.brokered import BrokerTestCase

DEVICES = [f"DEVICE{number}" for number in range(1, 9)]


class Once:
    """Runs `work` once, on its connection."""

    def __init__(self, work: Callable[[AmqpConnection], Awaitable[Any]]) -> None:
        self._work = work
        self.outcome: Deferred[Any] = Deferred()

    async def attach(self, connection: AmqpConnection) -> None:
        if self.outcome.called:
            return
        try:
            result = await self._work(connection)
        except Exception as error:
            self.outcome.errback(error)
        else:
            self.outcome.callback(result)

    def detach(self) -> None: ...


class CountTestCase(BrokerTestCase):
    shards = ()

    def on_a_connection(
        self, work: Callable[[AmqpConnection], Awaitable[Any]], *before: Any
    ) -> Deferred[Any]:
        session = Once(work)
        connection = self.begin([*before, session])
        self.network.until(lambda: bool(session.outcome.called), 60.0)
        self.disconnect(connection)
        return session.outcome

    def count(self, given: int | None) -> int:
        """Return the number of shards that a role with this ``--shards`` uses."""
        counts: list[int] = []
        session = ShardCount(given or 1, given=given is not None)
        session.on_other = counts.append
        session.on_agreed = lambda: counts.append(given or 1)
        self.on_a_connection(session.attach).addErrback(
            lambda reason: reason.trap(BrokerUnavailable)
        )
        return counts[0]

    def refused(self, given: int | None) -> str:
        session = ShardCount(given or 1, given=given is not None)
        error = self.failureResultOf(self.on_a_connection(session.attach), ConfigurationError)
        return str(error.value)

    def declare(self, count: int) -> list[Shard]:
        shards = [Shard(index, count) for index in range(count)]
        self.disconnect(self.connect([Topology(shards)]))
        return shards

    def next_event(self) -> None:
        """Run the next call that is due. (`Clock.advance` would run all that are due.)"""
        call = self.clock.calls.pop(0)
        self.assertLessEqual(call.getTime(), self.clock.seconds() + 1.0, "nothing happens any more")
        self.clock.rightNow = max(self.clock.rightNow, call.getTime())
        call.called = 1
        call.func(*call.args, **call.kw)


def events_of(case: BrokerTestCase, shard: Shard) -> list[TaskEvent]:
    """Return all events in a journal except for markers."""
    taken: list[Event] = []

    async def take(connection: AmqpConnection) -> None:
        await consume(
            await connection.open_channel(),
            shard.journal,
            lambda delivery: taken.extend(map(decode_event, events_in(delivery.body))),
            prefetch=1000,
            arguments={"x-stream-offset": "first"},
        )

    connection = case.connect([Once(take)])
    case.network.settle()
    case.disconnect(connection)
    return [cast("TaskEvent", event) for event in taken if not isinstance(event, Marker)]

"""A task may wait for a month: delivery limits, renewals, restarts and expired journal segments do
not end it.
"""

from __future__ import annotations

import re

from twisted.internet.defer import Deferred

from rtprov.broker.engine import stream as streams
from rtprov.broker.engine.stream import Stream
from rtprov.equipment.scenario import Rule
from rtprov.messaging.topology import DELIVERY_LIMIT, PARKED_QUEUE, Shard
from rtprov.model import State
from rtprov.worker import renewals
from tests.support.scale import slow
from tests.support.system import System
from tests.support.system_case import SystemTestCase

SHARD = Shard(0, 1)
DAY_S = 86400.0
MINUTE_S = 60.0
DAYS, STARTS_A_DAY = 30, 4
ALIVE_S = 2.5 * MINUTE_S
assert DAYS * STARTS_A_DAY > DELIVERY_LIMIT


class AMonth(SystemTestCase):
    """A refuses one device for a month. Workers run for minutes, four times a day, and renew their
    deliveries meanwhile.
    """

    def make(self) -> System:
        self.patch(streams, "TRIM_EVERY", 1)
        self.patch(renewals, "RENEW_AFTER_S", MINUTE_S)
        away = Rule(re.compile("AWAY.*"), 503, retry_after=86400)
        return System(delay_s=1.0, patience_s=40 * DAY_S, rules=[away])

    def stop(self) -> None:
        """Stop the worker and the front end."""
        stopping: list[Deferred[None]] = [
            self.system.workers.pop().stopService(),
            self.system.frontends.pop("b").stopService(),
        ]
        self.system.network.until(lambda: all(each.called for each in stopping))
        # The client's connections end too, as they would with the front end's process.
        self.system.network.cut("b")

    def start(self) -> None:
        self.system.start_frontend()
        self.system.start_worker()
        self.system.network.advance(2.0)

    @property
    def journal(self) -> Stream:
        journal = self.system.broker.virtual_host.queues[SHARD.journal]
        assert isinstance(journal, Stream)
        return journal

    def cancel(self, task_id: str) -> int:
        return self.system.request(
            "DELETE", f"/api/v1/equipment/cpe/AWAY123456/task/{task_id}"
        ).status

    @slow
    def test_a_month(self) -> None:
        """The task, those behind it, and the cancellation of one of them outlive the journal's
        segments. Each task is called in its turn and ends once.
        """
        first, second, third = (self.system.accepted("AWAY123456") for _ in range(3))
        self.assertEqual(self.cancel(second), 200)
        began_at = self.system.wall_clock()
        for _ in range(DAYS):
            for _ in range(STARTS_A_DAY):
                self.system.network.advance(ALIVE_S)
                self.stop()
                self.system.network.advance(DAY_S / STARTS_A_DAY - ALIVE_S)
                self.start()
            self.assertEqual(self.system.get("AWAY123456", first).json["code"], 204)
        self.assertGreater(self.journal._first_offset, 100)
        store = self.system.workers[0].stores[0]
        self.assertLess(store.first_started_at(first) or 0.0, began_at + MINUTE_S)
        self.assertIs(store.state(second), State.CANCELLED)
        self.system.rules = ()
        self.system.start_stub()
        self.stop()
        self.start()
        self.system.network.advance(10.0)
        self.assertEqual(
            [self.system.get("AWAY123456", each).json["code"] for each in (first, third)],
            [200, 200],
        )
        self.assertEqual(self.system.stub.calls, 2)
        self.assertEqual(self.system.broker.virtual_host.queues[PARKED_QUEUE].message_count, 0)
        self.assertEqual(self.system.broker.virtual_host.queues[SHARD.work].message_count, 0)

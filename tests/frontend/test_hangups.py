"""Clients that hang up at any point of a request, on a front end with a real broker and worker in
memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.protocol import Factory

from tests.support.front import BODY, CPE, TASK
from tests.support.raw_http import RawClient, request
from tests.support.system import REQUEST
from tests.support.system_case import COMPLETED, NO_TASK, RUNNING, SystemTestCase

MAX_EVENTS = 100


class HangUps(SystemTestCase):
    def hang_up_at_each_event(self, data: bytes) -> Iterator[int]:
        """Send the request and hang up after 0, 1, 2 … events, until it is answered before that;
        yield after each try.
        """
        for events in range(MAX_EVENTS):
            client = self.connect()
            assert client.transport is not None
            client.transport.write(data)
            for _ in range(events):
                self.let_one_thing_happen()
            answered = bool(client.received)
            client.hang_up()
            yield events
            if answered:
                return
        self.fail(f"not answered after {MAX_EVENTS} events")

    def connect(self) -> RawClient:
        client = RawClient(self.system.network, None)
        self.system.network.connect("b").connect(Factory.forProtocol(lambda: client))
        self.system.network.settle()
        return client

    def let_one_thing_happen(self) -> None:
        """Run the next call that is due. (`Clock.advance` would run all that are due.)"""
        clock = self.system.clock
        if clock.calls and clock.calls[0].getTime() <= clock.seconds():
            call = clock.calls.pop(0)
            call.called = 1
            call.func(*call.args, **call.kw)

    def test_during_a_post(self) -> None:
        """Whenever a client hangs up during a POST, the next POST is accepted and completed."""
        task_ids = {}
        for event in self.hang_up_at_each_event(request("POST", CPE + "HANGUP0", BODY)):
            equipment_id = f"NEXT{event:04}"
            task_ids[equipment_id] = self.system.accepted(equipment_id, REQUEST)
            self.assertEqual(self.status(equipment_id, task_ids[equipment_id]), RUNNING)
        self.assertGreater(len(task_ids), 3)
        self.system.network.advance(61)
        for equipment_id, task_id in task_ids.items():
            self.assertEqual(self.status(equipment_id, task_id), COMPLETED)

    def test_during_a_get(self) -> None:
        """Whenever a client hangs up during a GET, later requests get their own answers, not its
        answer.
        """
        task_id = self.system.accepted("ABC123456")
        for events in self.hang_up_at_each_event(request("GET", f"{CPE}ABC123456/task/{task_id}")):
            answered_after = events
            self.assertEqual(self.status("ABC123456", TASK), NO_TASK)
            self.assertEqual(self.status("ABC123456", task_id), RUNNING)
        self.assertGreater(answered_after, 3)

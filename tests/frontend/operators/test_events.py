"""The event stream of a front end, with fake workers."""

from __future__ import annotations

from datetime import date
from typing import cast

from attrs import evolve

from rtprov.frontend.operators import event_hub
from rtprov.http.admission import Admission
from rtprov.http.site import JsonSite
from rtprov.model import Active, EquipmentState, Finished, Requested, State
from rtprov.reports import FoundTask
from rtprov.security.tokens import new_token
from tests.support.event_streams import StreamEvent, stream_events
from tests.support.front import ID, FrontendTestCase
from tests.support.journal_folds import task_id
from tests.support.raw_http import RawClient, request

EVENTS = "/api/v1/events"
ACTIVE = Active("w1", 1.0, 10, EquipmentState.CLOSED)


class EventsTestCase(FrontendTestCase):
    def listen(self, *headers: str) -> RawClient:
        client = self.connect()
        client.send(request("GET", EVENTS, None, headers))
        return client

    def heard(self, client: RawClient, *kinds: str) -> list[StreamEvent]:
        """Return the events so far, those of these kinds if any are given."""
        return [
            event
            for event in stream_events(bytes(client.received))
            if not kinds or event.kind in kinds
        ]

    def kinds(self, client: RawClient) -> list[str]:
        return [event.kind for event in self.heard(client)]

    def end(self, *numbers: int, skipped: int = 0, wait_s: float = 0.05) -> None:
        """Let a worker report that tasks have ended; wait until the listeners have been told."""
        tasks = []
        for number in numbers:
            self.store.apply(Requested(task_id(number), ID, 900.0))
            self.store.apply(Finished(task_id(number), ID, 950.0, State.COMPLETED, "done"))
            record = self.store.record(task_id(number))
            assert record is not None
            tasks.append(FoundTask(record.at, self.store.describe(record, 1000.0)))
        assert self.reports.follower is not None
        self.reports.follower(tasks, skipped)
        self.network.advance(wait_s)


class Stream(EventsTestCase):
    def test_the_head(self) -> None:
        """The answer is a stream that no cache keeps, and that tells when to come back."""
        client = self.listen()
        head = bytes(client.received).partition(b"\r\n\r\n")[0]
        self.assertIn(b"Cache-Control: no-store", head)
        self.assertIn(b"retry: 2000\n\n", client.received)
        (answer,) = self.say(request("HEAD", EVENTS), "HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(self.hub.listeners, 1)

    def test_summaries(self) -> None:
        """A listener gets the present summary at once, the next one when something has changed,
        within a second, and otherwise within 15 s.
        """
        client = self.listen()
        (first,) = self.heard(client)
        self.assertEqual(
            (first.kind, first.data),
            ("summary", self.ask("GET", "/api/v1/summary").json["summary"]),
        )
        self.network.advance(5)
        self.assertEqual(len(self.heard(client)), 1)
        self.store.apply(ACTIVE)
        self.network.advance(1)
        changed = self.heard(client)[1]
        self.assertEqual(changed.data["shards"][0]["active"], "w1")
        self.network.advance(15)
        self.assertEqual(len(self.heard(client)), 3)
        late = self.listen()
        self.assertEqual(len(self.heard(late)), 1)

    def test_ends_of_tasks(self) -> None:
        """A task that ends is sent at once, in the form of lists."""
        client = self.listen()
        self.end(1)
        (event,) = self.heard(client, "task")
        self.assertEqual(event.data, self.ask("GET", f"/api/v1/tasks/{task_id(1)}").json["task"])

    def test_too_many_ends(self) -> None:
        """At most 50 ends are sent in a second. The others are counted."""
        client = self.listen()
        self.network.advance(0.5)
        self.end(*range(60), skipped=7)
        self.assertEqual(len(self.heard(client, "task")), 50)
        self.network.advance(1)
        (skipped,) = self.heard(client, "skipped")
        self.assertEqual(skipped.data, {"count": 17})
        self.end(100)
        self.assertEqual(len(self.heard(client, "task")), 51)

    def test_service_a(self) -> None:
        """A change of A's state is an event."""
        self.store.apply(ACTIVE)
        client = self.listen()
        self.store.apply(evolve(ACTIVE, at=2.0, equipment=EquipmentState.OPEN))
        self.network.advance(1)
        (event,) = self.heard(client, "equipment")
        self.assertEqual(event.data["state"], "open")
        self.assertEqual(event.data, self.heard(client, "summary")[-1].data["equipment"])

    def test_one_stream_for_all(self) -> None:
        """The workers are followed once, whatever the number of listeners. They are not followed
        without any, but for a minute after the last one has left.
        """
        self.assertIsNone(self.reports.follower)
        clients = [self.listen() for _ in range(3)]
        self.assertIsNotNone(self.reports.follower)
        self.end(1)
        self.assertEqual([len(self.heard(each, "task")) for each in clients], [1, 1, 1])
        for client in clients:
            client.hang_up()
        self.assertEqual(self.hub.listeners, 0)
        self.network.advance(59)
        self.assertIsNotNone(self.reports.follower)
        self.network.advance(1)
        self.assertIsNone(self.reports.follower)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_internal_error(self) -> None:
        """An internal error is logged once, and does not end the stream of the other listeners."""

        class Broken:
            position = 0
            admitted = True

            @property
            def reads(self) -> bool:
                raise ZeroDivisionError

            def send(self, data: bytes) -> None: ...

            def end(self) -> None: ...

        client, broken = self.listen(), Broken()
        self.hub.add(broken, None)
        self.network.advance(3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.hub.remove(broken)
        self.store.apply(ACTIVE)
        self.network.advance(1)
        self.assertEqual(self.heard(client, "summary")[-1].data["shards"][0]["active"], "w1")
        client.hang_up()
        self.network.advance(60)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_internal_error_of_an_end(self) -> None:
        """An end that cannot be sent is counted, and logged once until all is well again. The
        connection to the broker, whose consumer reports it, stays.
        """
        client, broken = self.listen(), cast("FoundTask", None)
        follower = self.reports.follower
        assert follower is not None
        for _ in range(3):
            follower([broken, broken], 0)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.end(1)
        follower([broken], 0)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.network.advance(1)
        self.assertEqual(len(self.heard(client, "task")), 1)
        (skipped,) = self.heard(client, "skipped")
        self.assertEqual(skipped.data, {"count": 7})

    def test_groups(self) -> None:
        """Many listeners are written to in groups, with a pause between two. Events that come
        meanwhile are sent together.
        """
        self.patch(event_hub, "GROUP", 2)
        clients = [self.listen() for _ in range(5)]
        self.network.advance(0.1)
        self.end(1, wait_s=0)
        self.assertEqual([len(self.heard(each, "task")) for each in clients], [1, 1, 0, 0, 0])
        self.end(2, wait_s=0)
        self.assertEqual([len(self.heard(each, "task")) for each in clients], [1, 1, 0, 0, 0])
        self.network.advance(0.1)
        self.assertEqual([len(self.heard(each, "task")) for each in clients], [2] * 5)


class Resuming(EventsTestCase):
    def test_from_the_last_event(self) -> None:
        """A client that names the last event it got gets those after it, each once."""
        client = self.listen()
        self.listen()  # keeps the stream alive
        self.end(1)
        last = self.heard(client)[-1].event_id
        client.hang_up()
        self.end(2, 3)
        again = self.listen(f"Last-Event-ID: {last}")
        self.assertEqual(
            [event.data["taskId"] for event in self.heard(again)], [task_id(2), task_id(3)]
        )
        (latest,) = self.heard(self.listen(f"Last-Event-ID: {self.heard(again)[-1].event_id}"))
        self.assertEqual(latest.kind, "summary")

    def test_the_only_listener(self) -> None:
        """What ends while the only listener is away is sent when it comes back within a minute,
        with the present summary. What is above the limit is counted.
        """
        client = self.listen()
        last = self.heard(client)[-1].event_id
        client.hang_up()
        self.network.advance(50)
        self.end(*range(60))
        self.network.advance(5)
        again = self.listen(f"Last-Event-ID: {last}")
        self.network.advance(0.1)
        self.assertEqual(
            [event.data["taskId"] for event in self.heard(again, "task")],
            [task_id(number) for number in range(50)],
        )
        self.assertEqual([event.data for event in self.heard(again, "skipped")], [{"count": 10}])
        self.assertEqual(self.kinds(again).count("summary"), 1)
        self.assertEqual(self.kinds(self.listen()), ["summary"])
        self.network.advance(60)
        self.end(100)
        self.assertEqual(self.heard(again, "task")[-1].data["taskId"], task_id(100))

    def test_a_new_listener_after_the_last(self) -> None:
        """A listener that comes after the last one has left gets the present summary at once."""
        self.listen().hang_up()
        self.network.advance(10.5)
        self.store.apply(ACTIVE)
        self.end(1)
        (summary,) = self.heard(self.listen())
        self.assertEqual(summary.data["shards"][0]["active"], "w1")

    def test_ids_of_others(self) -> None:
        """An id of another process, or none at all, begins anew with the summary."""
        self.listen()
        self.end(1)
        for sent in ("f2-1", "f1-", "f1-x", "f1-99999999999999999999999", "7", "", "-", "x" * 500):
            self.assertEqual(self.kinds(self.listen(f"Last-Event-ID: {sent}")), ["summary"], sent)

    def test_too_long_ago(self) -> None:
        """Events that are not kept any more are counted."""
        self.patch(event_hub, "MAX_KEPT", 2)
        client = self.listen()
        self.end(*range(10))
        first = self.heard(client)[0].event_id
        events = self.heard(self.listen(f"Last-Event-ID: {first}"))
        kept = [event for event in events if event.kind == "task"]
        self.assertEqual((events[0].kind, events[0].data), ("skipped", {"count": 10 - len(kept)}))
        self.assertTrue(2 <= len(kept) <= 3)
        self.assertEqual(kept[-1].data["taskId"], task_id(9))


class Limits(EventsTestCase):
    def test_slow_listeners(self) -> None:
        """A listener that does not read gets no events meanwhile, and all of them when it reads
        again. The others are not delayed.
        """
        slow, other = self.listen(), self.listen()
        slow.stop_reading()
        for number in range(300):
            if number % 40 == 0:
                self.network.advance(1)
            self.end(number)
        self.assertEqual(len(self.heard(other, "task")), 300)
        self.assertEqual(self.heard(slow, "task"), [])
        slow.read_again()
        self.network.advance(0.5)
        self.assertEqual(self.heard(slow, "task"), self.heard(other, "task"))

    def test_stalled_listeners(self) -> None:
        """A listener that reads nothing for half a minute is told how many events it has missed,
        and its connection is closed.
        """
        client = self.listen()
        self.listen()
        client.stop_reading()
        for number in range(300):
            if number % 40 == 0:
                self.network.advance(1)
            self.end(number)
        self.network.advance(33)
        self.assertEqual(self.hub.listeners, 1)
        client.read_again()
        self.network.settle()
        last = self.heard(client)[-1]
        self.assertEqual(last.kind, "skipped")
        missed = 300 - len(self.heard(client, "task"))
        self.assertTrue(0 < missed <= last.data["count"], last)
        self.assertTrue(client.lost)

    def test_too_many_listeners(self) -> None:
        """Above the limit, a listener is told when to come again."""
        self.patch(event_hub, "MAX_LISTENERS", 2)
        clients = [self.listen() for _ in range(2)]
        refused = self.ask("GET", EVENTS)
        self.assertError(refused, 429)
        self.assertEqual(refused.header("Retry-After"), "10")
        clients[0].hang_up()
        self.assertEqual(self.kinds(self.listen()), ["summary"])

    def test_parameters(self) -> None:
        """The stream has no parameters."""
        self.assertError(self.ask("GET", f"{EVENTS}?since=1"), 400)

    def test_the_front_end_stops(self) -> None:
        """All streams end."""
        clients = [self.listen() for _ in range(2)]
        self.hub.stop()
        self.network.settle()
        self.assertEqual([client.lost for client in clients], [True, True])
        for client in clients:
            self.assertTrue(client.received.endswith(b"\r\n0\r\n\r\n"), "not a complete answer")
        self.assertIsNone(self.reports.follower)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_front_end_stops_without_listeners(self) -> None:
        """Workers are not followed any more, also if the last listener has just left."""
        self.listen().hang_up()
        self.hub.stop()
        self.assertIsNone(self.reports.follower)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Access(EventsTestCase):
    """A stream ends when its listener would not be admitted any more."""

    def setUp(self) -> None:
        super().setUp()
        made = [new_token(name) for name in ("billing", "shift")]
        self.tokens = tuple(token for token, _ in made)
        self.fields = [f"Authorization: Bearer {secret}" for _, secret in made]
        self.admission = Admission(
            now=self.clock.seconds, wall_clock=self.clock.seconds, tokens=self.tokens
        )
        site = JsonSite(self.frontend.resource(), reactor=self.reactor, admission=self.admission)
        self.network.listen("b").listen(site)

    def test_removed_token(self) -> None:
        """The token of one listener is removed: only its stream ends, within a second."""
        clients = [self.listen(field) for field in self.fields]
        self.network.advance(2)
        self.assertEqual([client.lost for client in clients], [False, False])
        self.admission.tokens = self.tokens[1:]
        self.network.advance(1)
        self.assertEqual([client.lost for client in clients], [True, False])
        self.assertEqual(self.hub.listeners, 1)

    def test_expired_token(self) -> None:
        """A token is valid until its last day is over."""
        last_day = date(1970, 1, 1)
        self.admission.tokens = tuple(evolve(each, expires=last_day) for each in self.tokens)
        client = self.listen(self.fields[0])
        self.network.advance(2)
        self.assertFalse(client.lost)
        self.clock.rightNow += 86400
        self.network.advance(1)
        self.assertTrue(client.lost)

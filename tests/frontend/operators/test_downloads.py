"""Downloads of tasks: they wait for their clients, and end with them."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred, fail

from rtprov.errors import NoReply
from rtprov.frontend.operators import task_search
from rtprov.model import Requested
from rtprov.reports import Cursor, FoundTasks, TaskFilter
from tests.support.front import FakeReports, FrontendTestCase
from tests.support.journal_folds import task_id
from tests.support.memory import HIGH_WATER
from tests.support.raw_http import RawClient, request

CSV, JSONL = "/api/v1/tasks.csv", "/api/v1/tasks.jsonl"
COUNT = 3000


class CountedReports(FakeReports):
    """Counts the searches; from the search number `fails_at` on they fail."""

    searches = 0
    fails_at = 10**9

    def search(
        self, shard: int, wanted: TaskFilter, before: Cursor | None, limit: int, *, barrier: bool
    ) -> Deferred[FoundTasks]:
        self.searches += 1
        if self.searches >= self.fails_at:
            return fail(NoReply("away"))
        return super().search(shard, wanted, before, limit, barrier=barrier)


class Downloads(FrontendTestCase):
    def setUp(self) -> None:
        super().setUp()
        for number in range(COUNT):
            self.store.apply(Requested(task_id(number), f"ABC{number:06}", float(number)))

    def make_reports(self) -> FakeReports:
        self.counted = CountedReports(self.store)
        return self.counted

    def begin(self, path: str = JSONL) -> RawClient:
        client = self.connect()
        client.stop_reading()
        client.send(request("GET", path))
        return client

    def test_complete(self) -> None:
        """All tasks arrive, in pieces."""
        lines = self.ask("GET", JSONL).body.splitlines()
        found = [json.loads(line)["taskId"] for line in lines]
        self.assertEqual(found, [task_id(number) for number in reversed(range(COUNT))])
        self.assertEqual(len(self.ask("GET", CSV).body.splitlines()), COUNT + 1)
        self.assertEqual(self.ask("GET", f"{CSV}?state=failed").body.count(b"\r\n"), 1)

    def test_a_client_that_does_not_read(self) -> None:
        """Nothing is asked for while the client does not read; then the download goes on."""
        client = self.begin()
        asked = self.counted.searches
        self.assertLess(asked * task_search.PIECE, COUNT // 2)
        self.network.advance(50)
        self.assertEqual(self.counted.searches, asked)
        self.assertLess(len(client.received), HIGH_WATER)
        client.read_again()
        self.network.settle()
        self.assertEqual(len(client.answers()[0].body.splitlines()), COUNT)

    def test_a_client_that_stalls(self) -> None:
        """After a minute without reading, the connection is closed."""
        client = self.begin()
        self.network.advance(61)
        client.read_again()
        self.network.settle()
        self.assertTrue(client.lost)
        self.assertTrue(any("a download was cut off" in event for event in self.events))

    def test_a_client_that_hangs_up(self) -> None:
        """The download ends without an error."""
        client = self.begin()
        asked = self.counted.searches
        client.hang_up()
        self.network.advance(1)
        self.assertEqual(self.counted.searches, asked)

    def test_a_worker_that_goes_away(self) -> None:
        """A download that cannot be completed ends with a closed connection, so that the client
        does not take it for complete. Before the first task, it is a 503.
        """
        self.counted.fails_at = 3
        client = self.connect()
        client.send(request("GET", JSONL))
        self.network.settle()
        self.assertTrue(client.lost)
        self.assertNotIn(b"\r\n0\r\n\r\n", client.received)
        self.counted.fails_at = 0
        self.assertError(self.ask("GET", JSONL), 503)

    def test_too_many(self) -> None:
        """Further downloads are told when to come again."""
        clients = [self.begin() for _ in range(task_search.MAX_DOWNLOADS)]
        refused = self.ask("GET", CSV)
        self.assertError(refused, 429)
        self.assertEqual(refused.header("Retry-After"), "5")
        clients[0].hang_up()
        self.assertEqual(self.ask("GET", CSV).status, 200)

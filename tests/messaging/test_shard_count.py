"""`rtprov.messaging.shard_count`, on the embedded broker in memory."""

from __future__ import annotations

from rtprov.errors import BrokerUnavailable, ConfigurationError
from rtprov.messaging.shard_count import (
    SHARDS_QUEUE,
    Remembered,
    ShardCount,
    delete_queue,
    remember,
)
from tests.support.shard_case import CountTestCase, Once


class Counts(CountTestCase):
    def test_a_new_broker(self) -> None:
        """A new broker remembers the number of the first process that connects, or 1."""
        self.assertEqual(self.count(None), 1)
        self.assertEqual(self.count(None), 1)
        self.assertIn("the broker has 1 shards", self.refused(4))
        self.assertEqual(self.count(1), 1)

    def test_given(self) -> None:
        """A process without a number uses the one in the broker."""
        self.assertEqual(self.count(16), 16)
        self.assertEqual(self.count(None), 16)
        self.assertIn("--shards 1:", self.refused(1))

    def test_two_at_once(self) -> None:
        """If two processes with different numbers connect to a new broker at once, one is
        refused.
        """
        sessions = [Once(ShardCount(count, given=True).attach) for count in (2, 3)]
        connections = [self.begin([session]) for session in sessions]
        self.network.until(lambda: all(session.outcome.called for session in sessions), 60.0)
        for connection in connections:
            self.disconnect(connection)
        outcomes = [session.outcome.result for session in sessions]
        for session in sessions:
            session.outcome.addErrback(lambda reason: reason.trap(ConfigurationError))
        self.assertEqual([outcome is None for outcome in outcomes].count(True), 1, outcomes)

    def test_a_broker_of_before(self) -> None:
        """For a broker used by an earlier version, the queues show the number."""
        self.declare(4)
        self.assertIn("the broker has 4 shards", self.refused(1))
        self.assertEqual(self.count(None), 4)

    def test_several_of_before(self) -> None:
        """If there are queues for several numbers, the operator must say which one is in use."""
        self.declare(2)
        self.declare(5)
        self.assertIn("has queues of 2 and 5 shards", self.refused(None))
        self.assertEqual(self.count(5), 5)
        self.assertEqual(self.count(None), 5)

    def test_remembered(self) -> None:
        """Both numbers of a change are stored and read back."""
        for each in (Remembered(1), Remembered(1024), Remembered(1024, 1), Remembered(1, 1024)):
            self.assertEqual(Remembered.of(each.value), each)

    def test_no_number(self) -> None:
        """A stored value that is no number of shards, of another program, is refused. The role
        waits until the queue is deleted.
        """
        for value in (0, 1025, 9_999, 10_000, 10_000 * 1025 + 1):
            self.successResultOf(
                self.on_a_connection(lambda connection: delete_queue(connection, SHARDS_QUEUE))
            )
            stored = Remembered.of(value)
            self.successResultOf(
                self.on_a_connection(
                    lambda connection, stored=stored: remember(connection, stored)  # type: ignore[misc] # mypy cannot infer the default's type
                )
            )
            for given in (False, True):
                attach = ShardCount(1, given=given).attach
                error = self.failureResultOf(self.on_a_connection(attach), BrokerUnavailable)
                self.assertIn(f"{SHARDS_QUEUE} holds {value}", str(error.value))

    def test_while_it_is_changed(self) -> None:
        """While the number is being changed, no role connects."""
        self.successResultOf(
            self.on_a_connection(lambda connection: remember(connection, Remembered(1, 4)))
        )
        connection = self.begin([ShardCount(1, given=False)])
        self.network.advance(20.0)
        self.assertFalse(connection.connected)
        self.assertIn("is being changed from 1 to 4", " ".join(self.logged))

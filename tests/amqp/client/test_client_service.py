"""The client service: it attaches sessions to each connection, logs each trouble once, reconnects
with growing pauses, and leaves nothing after its stop.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from pamqp.commands import Basic, Channel, Connection, Queue
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogEvent, LogLevel, capturedLogs

from rtprov.amqp.client.permissions import MayPublish
from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.service import BrokerConnection, Session
from rtprov.amqp.framing import Command
from rtprov.errors import BrokerUnavailable
from rtprov.messaging.topology import Shard, declare_status
from tests.support.memory import MemoryTransport
from tests.support.scripted_broker import URL, AmqpTestCase


class RecordingSession:
    """Records its calls. `attach` does what the test wants."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary
        self.error: Exception | None = None
        self.hold: Deferred[None] | None = None
        self.connection: AmqpConnection | None = None

    async def attach(self, connection: AmqpConnection) -> None:
        self.diary.append(f"attach {self.name}")
        self.connection = connection
        if self.hold is not None:
            await self.hold
        if self.error is not None:
            raise self.error

    def detach(self) -> None:
        self.diary.append(f"detach {self.name}")


class LoopTests(AmqpTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.diary: list[str] = []
        self.first, self.second = (
            RecordingSession(name, self.diary) for name in ("first", "second")
        )
        self.events: Sequence[LogEvent] = ()
        self.service = self.make((self.first, self.second))
        self.logs = capturedLogs()
        self.events = self.logs.__enter__()
        self.addCleanup(self.logs.__exit__, None, None, None)

    def make(self, sessions: Sequence[Session], server: str = "broker") -> BrokerConnection:
        return BrokerConnection(
            name="test",
            endpoint=self.network.connect(server),
            url=URL,
            clock=self.clock,
            rng=random.Random(5),
            sessions=sessions,
        )

    def start(self) -> None:
        self.service.startService()
        self.network.settle()

    def stop(self) -> None:
        """Stop the service; check that nothing is left."""
        stopped = self.service.stopService()
        self.network.settle()
        self.assertIsNone(self.successResultOf(stopped))
        self.assertFalse(self.service.connected)
        self.assert_idle()

    def warnings(self) -> list[str]:
        return [
            str(event.get("text")) for event in self.events if event["log_level"] >= LogLevel.warn
        ]

    def test_serves(self) -> None:
        """Sessions are attached in order. Then the service counts as connected. Stopping detaches
        them in reverse order and closes the connection.
        """
        connected = self.service.when_connected()
        self.assertNoResult(connected)
        self.second.hold = Deferred()
        self.start()
        self.assertNoResult(connected)
        self.assertFalse(self.service.connected)
        self.second.hold.callback(None)
        self.successResultOf(connected)
        self.assertTrue(self.service.connected)
        self.successResultOf(self.service.when_connected())
        self.stop()
        self.assertEqual(
            self.diary, ["attach first", "attach second", "detach second", "detach first"]
        )
        self.assertEqual(len(self.peer.commands(Connection.Close)), 1)
        self.assertEqual(self.warnings(), [])

    def test_comes_back(self) -> None:
        """A lost connection is replaced, and the sessions are attached again. The loss is logged
        once.
        """
        self.start()
        self.peer.cut()
        self.network.settle()
        self.assertFalse(self.service.connected)
        again = self.service.when_connected()
        self.network.advance(0.1)
        self.successResultOf(again)
        self.assertEqual(
            self.diary,
            [
                "attach first",
                "attach second",
                "detach second",
                "detach first",
                "attach first",
                "attach second",
            ],
        )
        self.assertEqual(len(self.broker.peers), 2)
        self.assertEqual(len(self.warnings()), 1)
        self.stop()

    def test_refused(self) -> None:
        """If connections are refused, it tries again with pauses that grow to 5 seconds, and logs
        that once.
        """
        self.network.factories.clear()
        self.start()
        attempts = []
        while self.clock.seconds() < 60:
            (pause,) = self.clock.getDelayedCalls()
            attempts.append(pause.getTime() - self.clock.seconds())
            self.network.advance(attempts[-1])
        for number, pause_s in enumerate(attempts):
            limit = min(5.0, 0.1 * 2**number)
            self.assertTrue(limit / 2 <= pause_s <= limit, attempts)
        self.assertEqual(len(self.warnings()), 1)
        self.network.listen("broker").listen(self.broker)
        self.network.advance(5)
        self.assertTrue(self.service.connected)
        self.stop()

    def test_pauses_are_spread(self) -> None:
        """Pauses are random, so that two processes do not reconnect at the same time."""
        self.network.factories.clear()
        pauses = []
        for seed in (1, 2):
            service = self.make(())
            service._rng = random.Random(seed)
            service.startService()
            self.network.settle()
            pauses.append([call.getTime() for call in self.clock.getDelayedCalls()])
            service.stopService()
        self.assertNotEqual(*pauses)

    def test_short_lives(self) -> None:
        """A connection that is lost right after the handshake is replaced after a pause."""
        self.start()
        for _ in range(10):
            self.peer.cut()
            self.network.until(lambda: self.service.connected)
        self.assertGreater(self.clock.seconds(), 10)
        self.assertLess(len(self.broker.peers), 12)
        self.network.advance(30)
        before = self.clock.seconds()
        self.peer.cut()
        self.network.settle()
        self.network.until(lambda: self.service.connected)
        self.assertLess(self.clock.seconds() - before, 0.2)
        self.stop()

    def test_lost_at_each_step(self) -> None:
        """If a connection is lost at any step of the handshake, the next attempt succeeds."""
        for step in (Connection.StartOk, Connection.TuneOk, Connection.Open):
            self.setUp()
            answer = self.broker.answers.get(step)
            self.broker.answers[step] = lambda peer, _: peer.cut()
            self.start()
            self.assertFalse(self.service.connected)
            self.broker.answers[step] = answer
            self.network.advance(1)
            self.assertTrue(self.service.connected)
            self.assertEqual(self.diary, ["attach first", "attach second"])
            self.stop()

    def test_silent_broker(self) -> None:
        """A broker that accepts connections and sends nothing is given up after 5 seconds each
        time. Once it answers, the service connects.
        """
        self.patch(self.broker, "greet", lambda peer: None)
        self.start()
        self.network.advance(20)
        self.assertIn(len(self.broker.peers), (3, 4))
        self.assertEqual(sum(not peer.lost for peer in self.broker.peers), 1)
        self.stop()

    def test_wrong_password(self) -> None:
        """A refused password is logged clearly, once, and never shown."""
        self.broker.answers[Connection.StartOk] = lambda peer, _: Connection.Close(
            403, "ACCESS_REFUSED", 0, 0
        )
        self.start()
        self.network.advance(20)
        (warning,) = self.warnings()
        self.assertIn("refused the user name or the password of 'alice'", warning)
        self.assertNotIn("secret", repr(self.events))
        self.stop()

    def test_attach_refused(self) -> None:
        """If a session cannot be attached, the connection is closed. That is logged once with the
        session's name, and all sessions that were begun are detached.
        """
        self.second.error = BrokerUnavailable("no such thing")
        self.start()
        self.network.advance(10)
        self.assertEqual(
            self.diary[:4], ["attach first", "attach second", "detach second", "detach first"]
        )
        self.assertEqual(self.warnings(), ["RecordingSession could not set up: no such thing"])
        self.assertFalse(self.service.connected)
        self.assertTrue(all(peer.lost for peer in self.broker.peers))
        self.second.error = None
        self.network.advance(5)
        self.assertTrue(self.service.connected)
        self.stop()

    def test_attach_bug(self) -> None:
        """An internal error of a session is logged with its traceback, once, and the session is
        attached again later.
        """
        self.first.error = RuntimeError("bug")
        self.start()
        self.network.advance(10)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.first.error = None
        self.network.advance(5)
        self.assertTrue(self.service.connected)
        self.stop()

    def test_attach_too_slow(self) -> None:
        """A session that is not attached by its deadline closes the connection."""
        self.second.hold = Deferred()
        self.start()
        for _ in range(59):
            self.network.advance(5)
            self.peer.send(Connection.Unblocked())
        self.assertEqual(len(self.broker.peers), 1)
        self.second.hold.addErrback(lambda reason: reason.trap(CancelledError) and None)
        self.network.advance(6)
        self.assertEqual(self.warnings(), ["RecordingSession was not ready within 300 s"])
        self.second.hold = None
        self.network.advance(1)
        self.assertTrue(self.service.connected)
        self.stop()

    def test_lost_while_attaching(self) -> None:
        """A session that is being attached is cancelled at once when the connection is lost."""
        self.second.hold = Deferred()
        self.start()
        self.peer.cut()
        self.second.hold.addErrback(lambda reason: reason.trap(CancelledError) and None)
        self.network.settle()
        self.assertEqual(self.diary[-2:], ["detach second", "detach first"])
        self.second.hold = None
        self.network.advance(1)
        self.assertTrue(self.service.connected)
        self.stop()

    def test_method_refused_while_attaching(self) -> None:
        """If the broker refuses a session's method, its reason is logged with the
        session's name.
        """

        class Declaring(RecordingSession):
            async def attach(self, connection: AmqpConnection) -> None:
                await (await connection.open_channel()).queue_declare(queue="q")

        self.broker.answers[Queue.Declare] = lambda peer, _: Channel.Close(
            406, "PRECONDITION_FAILED - x-max-age", 50, 10
        )
        self.service = self.make([Declaring("third", self.diary)])
        self.start()
        self.network.advance(3)
        self.assertEqual(
            self.warnings(), ["Declaring could not set up: 406 PRECONDITION_FAILED - x-max-age"]
        )
        self.stop()

    def test_permission_refused(self) -> None:
        """A missing permission is named, and logged once, even if the queue has another name at
        each attempt.
        """

        class Serving(RecordingSession):
            async def attach(self, connection: AmqpConnection) -> None:
                await declare_status(await connection.open_channel(), Shard(0, 1))

        def refuse(peer: object, declare: Command) -> Channel.Close:
            assert isinstance(declare.method, Queue.Declare)
            name = declare.method.queue
            return Channel.Close(
                403,
                f"ACCESS_REFUSED - access to queue '{name}' in vhost '/' refused for user 'alice'",
                50,
                10,
            )

        self.broker.answers[Queue.Declare] = refuse
        self.service = self.make([Serving("third", self.diary)])
        self.start()
        self.network.advance(20)
        self.assertGreater(len(self.broker.peers), 3)
        (warning,) = self.warnings()
        self.assertIn("refused for user 'alice' (the user needs the configure", warning)
        self.stop()

    def test_may_not_publish(self) -> None:
        """So is a missing permission to publish, which the broker reports only at a publish."""
        text = (
            "ACCESS_REFUSED - access to exchange 'rtprov.tasks' in vhost '/' refused for user"
            " 'alice'"
        )
        self.broker.answers[Basic.Publish] = lambda peer, _: Channel.Close(403, text, 60, 40)
        publisher = Publisher(clock=self.clock)
        self.service = self.make([publisher, MayPublish(publisher, ["rtprov.tasks"])])
        self.start()
        self.network.advance(20)
        self.assertGreater(len(self.broker.peers), 3)
        (warning,) = self.warnings()
        self.assertIn(f"{text} (the user needs the write permission", warning)
        self.stop()

    def test_may_publish_later(self) -> None:
        """A broker that accepts no messages at present does not prevent a process from
        connecting.
        """
        self.broker.answers[Basic.Publish] = lambda peer, _: None
        publisher = Publisher(clock=self.clock, confirm_deadline_s=4.0)
        self.service = self.make(
            [publisher, MayPublish(publisher, ["rtprov.tasks", "rtprov.status"])]
        )
        self.start()
        self.network.advance(8)
        self.assertTrue(self.service.connected)
        self.stop()

    def test_detach_bug(self) -> None:
        """A session whose detach fails is logged, and the others are detached all the same."""

        class Failing(RecordingSession):
            def detach(self) -> None:
                raise RuntimeError("bug")

        self.service = self.make([self.first, Failing("failing", self.diary)])
        self.start()
        self.stop()
        self.assertEqual(self.diary, ["attach first", "attach failing", "detach first"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_dropped_by_session(self) -> None:
        """A session may close the connection. Its reason is logged."""
        self.start()
        assert self.first.connection is not None
        self.first.connection.drop("The journal stands still")
        self.network.advance(1)
        self.assertEqual(self.warnings(), ["The journal stands still"])
        self.assertTrue(self.service.connected)
        self.stop()

    def test_dropped_while_attaching(self) -> None:
        """So is the reason if another session is still being attached."""
        self.second.hold = Deferred()
        self.start()
        assert self.first.connection is not None
        self.second.hold, _ = None, self.second.hold
        self.first.connection.drop("The journal stands still")
        self.network.advance(1)
        self.assertEqual(self.warnings(), ["The journal stands still"])
        self.assertTrue(self.service.connected)
        self.stop()

    def test_stop_at_each_step(self) -> None:
        """The service can be stopped in any phase: connecting, handshake, attaching, connected,
        pausing.
        """
        for step in (
            "before",
            "connecting",
            "greeting",
            "login",
            "attaching",
            "serving",
            "pausing",
        ):
            self.setUp()
            if step == "greeting":
                self.patch(self.broker, "greet", lambda peer: None)
            elif step == "login":
                self.broker.answers[Connection.StartOk] = None
            elif step == "attaching":
                self.first.hold = Deferred()
            elif step == "pausing":
                self.network.factories.clear()
            if step == "connecting":
                self.service.startService()
            elif step != "before":
                self.start()
            self.stop()
            self.network.advance(60)
            self.assertLessEqual(len(self.broker.peers), 1)
            self.assertEqual(self.diary.count("attach first"), self.diary.count("detach first"))
            self.assertTrue(all(peer.lost for peer in self.broker.peers))

    def test_stop_from_a_stalled_broker(self) -> None:
        """A broker that does not answer the close is disconnected after 2 seconds."""
        self.start()
        transport = self.peer.transport
        assert isinstance(transport, MemoryTransport)
        transport.pauseProducing()
        stopped = self.service.stopService()
        self.network.advance(1.9)
        self.assertNoResult(stopped)
        self.network.advance(0.2)
        self.successResultOf(stopped)
        self.assert_idle()

    def test_stop_while_ending(self) -> None:
        """If it is stopped while a failed connection is being closed, it waits for that."""
        self.second.error = BrokerUnavailable("no")
        self.broker.answers[Connection.Close] = None
        self.start()
        stopped = self.service.stopService()
        self.network.settle()
        self.assertNoResult(stopped)
        self.network.advance(2)
        self.successResultOf(stopped)
        self.assert_idle()

    def test_restart(self) -> None:
        """A stopped service can be started again."""
        self.start()
        self.stop()
        self.start()
        self.assertTrue(self.service.connected)
        self.stop()

    def test_waiter_gives_up(self) -> None:
        """Waiting for the connection can be cancelled."""
        waiter, other = self.service.when_connected(), self.service.when_connected()
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        self.start()
        self.successResultOf(other)
        self.stop()

    def test_log_lines(self) -> None:
        """Connecting and disconnecting each give one log line."""
        self.start()
        self.stop()
        self.assertEqual(
            [
                event["log_format"].partition(" (")[0]
                for event in self.events
                if event.get("log_namespace", "").startswith("rtprov")
            ],
            ["{name}: connected to {url}", "{name}: disconnected from {url}"],
        )

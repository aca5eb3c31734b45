"""The parts of the simulated world: clocks, network and disk."""

from __future__ import annotations

import random

from pamqp.commands import Basic
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.codec import encode_header
from rtprov.broker.messages import Message
from rtprov.broker.storage.interface import Record
from tests.simulation.clock import Role, WorldClock
from tests.simulation.disk import Disk, SimulatedStorage
from tests.simulation.links import Link
from tests.simulation.network import Network


class Listener(Protocol):
    """Keeps what it receives, and whether its connection is lost."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class WorldTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = WorldClock()
        self.rng = random.Random(1)

    def advance(self, seconds: float) -> None:
        """Let this much time pass."""
        end = self.world.now + seconds
        alarm = self.world.call_later(None, seconds, lambda: None)
        while alarm.active() and self.world.step():
            pass
        self.assertEqual(self.world.now, end)


class Clocks(WorldTestCase):
    def test_order(self) -> None:
        """Calls run in the order of their times, and for equal times in the order of scheduling."""
        happened: list[str] = []
        for name, delay in (("c", 2.0), ("a", 1.0), ("b", 1.0)):
            self.world.call_later(None, delay, happened.append, name)
        self.advance(3.0)
        self.assertEqual(happened, ["a", "b", "c"])

    def test_reset_and_cancel(self) -> None:
        """A postponed call runs at its new time, as does one that is moved forward. A cancelled one
        never runs.
        """
        happened: list[tuple[str, float]] = []
        calls = {
            name: self.world.call_later(
                None, 5.0, lambda name=name: happened.append((name, self.world.now))
            )
            for name in ("later", "sooner", "never")
        }
        calls["later"].reset(9.0)
        calls["sooner"].reset(1.0)
        calls["never"].cancel()
        self.advance(10.0)
        self.assertEqual(happened, [("sooner", 1.0), ("later", 9.0)])

    def test_a_dead_role(self) -> None:
        """No call of a dead role runs, whether it was scheduled before or after its death."""
        role, happened = Role("r", self.world), list[str]()
        role.clock.callLater(1.0, happened.append, "before")
        role.alive = False
        role.clock.callLater(1.0, happened.append, "after")
        self.advance(2.0)
        self.assertEqual((happened, self.world.pending()), ([], []))

    def test_a_frozen_role(self) -> None:
        """The clock of a frozen role stands still: calls that fall due meanwhile run later by the
        duration of the freeze.
        """
        role, happened = Role("r", self.world), list[tuple[str, float]]()
        for name, delay in (("second", 3.0), ("first", 1.0)):
            role.clock.callLater(
                delay, lambda name=name: happened.append((name, round(self.world.now, 3)))
            )
        role.freeze(10.0)
        self.advance(10.5)
        self.assertEqual(happened, [])
        self.advance(3.0)
        self.assertEqual(happened, [("first", 11.0), ("second", 13.0)])

    def test_a_clock_that_is_set(self) -> None:
        """A step of the system clock does not move timers. The role's wall clock shows the step but
        does not count it in an age.
        """
        role, happened = Role("r", self.world), list[float]()
        began = role.wall_clock()
        role.clock.callLater(20.0, lambda: happened.append(round(self.world.now, 3)))
        self.advance(5.0)
        role.set_clock(600.0)
        self.advance(16.0)
        self.assertEqual(happened, [20.0])
        self.assertAlmostEqual(role.wall_clock() - began, 620.0, places=3)
        self.assertAlmostEqual(role.wall_clock.age_s(began), 20.0, places=3)
        self.assertEqual((role.offset_at(4.0), role.offset_at(6.0)), (0.0, 600.0))


class Links(WorldTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.network = Network(self.world, self.rng, split=0.5, slow=0.0)
        self.client_role, self.server_role = Role("c", self.world), Role("s", self.world)
        factories = [Factory.forProtocol(Listener) for _ in range(2)]
        self.network.listen(self.server_role, "server", factories[0])
        connected = self.network.endpoint(self.client_role, "server").connect(factories[1])
        self.advance(1.0)
        self.successResultOf(connected)
        self.link: Link = self.network.open_links()[0]
        self.client, self.server = self.link.client, self.link.server

    def listener(self, end: object) -> Listener:
        protocol = getattr(end, "protocol", None)
        assert isinstance(protocol, Listener)
        return protocol

    def test_bytes(self) -> None:
        """What one end writes arrives at the other, complete and in order, before the close."""
        self.client.write(b"a" * 100)
        self.client.write(b"b" * 100)
        self.client.loseConnection()
        self.advance(2.0)
        self.assertEqual(self.listener(self.server).received, b"a" * 100 + b"b" * 100)
        self.assertEqual([self.listener(end).lost for end in self.link.ends], [True, True])
        self.assertEqual(self.network.open_links(), [])

    def test_cut(self) -> None:
        """Of the data in flight on a cut link, a first part arrives; then both ends are
        notified.
        """
        self.client.write(bytes(range(100)))
        self.link.break_off()
        self.client.write(b"more")
        self.advance(2.0)
        received = self.listener(self.server).received
        self.assertEqual(received, bytes(range(100))[: len(received)])
        self.assertEqual([self.listener(end).lost for end in self.link.ends], [True, True])

    def test_half_open(self) -> None:
        """Data from a mute end arrives only after it is unmuted, and then completely."""
        self.link.mute([self.client], 60.0)
        self.client.write(b"hello")
        self.server.write(b"are you there?")
        self.advance(59.0)
        self.assertEqual(
            (self.listener(self.server).received, self.listener(self.client).received),
            (b"", b"are you there?"),
        )
        self.advance(2.0)
        self.assertEqual(self.listener(self.server).received, b"hello")

    def test_half_open_and_given_up(self) -> None:
        """An end that aborts a mute link is closed at once. The other end is notified when the link
        is unmuted.
        """
        self.link.mute(self.link.ends, 60.0)
        self.client.abortConnection()
        self.advance(59.0)
        self.assertEqual([self.listener(end).lost for end in self.link.ends], [True, False])
        self.advance(2.0)
        self.assertTrue(self.listener(self.server).lost)

    def test_death(self) -> None:
        """The peers of a dead role are notified of the loss; the role itself gets no more calls."""
        self.server.write(b"too late")
        self.client_role.alive = False
        self.network.role_died(self.client_role, None)
        self.advance(1.0)
        self.assertEqual(
            (self.listener(self.client).received, self.listener(self.client).lost), (b"", False)
        )
        self.assertTrue(self.listener(self.server).lost)

    def test_power_loss(self) -> None:
        """The peers of a role whose machine lost its power are notified only after a while."""
        self.client_role.alive = False
        self.network.role_died(self.client_role, 30.0)
        self.advance(29.0)
        self.assertFalse(self.listener(self.server).lost)
        self.advance(2.0)
        self.assertTrue(self.listener(self.server).lost)


class Disks(WorldTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.disk = Disk(lambda _: None)
        self.addCleanup(self.disk.destroy)

    def open(self) -> tuple[Role, SimulatedStorage]:
        role = Role("broker", self.world)
        return role, SimulatedStorage(self.disk, role=role, world=self.world, rng=self.rng)

    def test_what_survives(self) -> None:
        """Committed data survives the broker's death; uncommitted data does not."""
        role, storage = self.open()
        storage.queue_declared("q", {}, False)
        storage.added("q", record(1))
        committed = storage.commit()
        self.assertNoResult(committed)
        self.advance(2.0)
        self.successResultOf(committed)
        storage.added("q", record(2))
        storage.die()
        role.alive = False
        self.advance(2.0)
        (queue,) = self.open()[1].recover().queues
        self.assertEqual((queue.name, queue.count, queue.last), ("q", 1, 1))

    def test_full(self) -> None:
        """While the disk is full, a commit waits and the broker is notified. When there is space
        again, the commit completes.
        """
        _, storage = self.open()
        heard: list[str | None] = []
        storage.on_trouble = heard.append
        self.disk.full = True
        storage.queue_declared("q", {}, False)
        committed = storage.commit()
        self.advance(5.0)
        self.assertNoResult(committed)
        self.disk.full = False
        self.advance(5.0)
        self.successResultOf(committed)
        self.assertEqual(heard, ["database or disk is full", None])


def record(position: int) -> Record:
    properties = Basic.Properties(delivery_mode=2)
    return Record(position, 0.0, Message("", "q", properties, encode_header(properties, 1), b"x"))

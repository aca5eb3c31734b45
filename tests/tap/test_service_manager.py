"""What a service manager such as systemd is told: readiness, status, reloads, the watchdog."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import cast

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from rtprov.security.development import make_development_set
from rtprov.tap.command import Command
from rtprov.tap.service_manager import (
    BEAT_EVERY_S,
    LOOK_EVERY_S,
    Condition,
    NotifySocket,
    ServiceManager,
    notify_socket,
    watchdog_s,
)
from tests.support.command_files import FilesTestCase, parsed
from tests.support.command_lines import MODULES

EXTEND = "EXTEND_TIMEOUT_USEC=30000000"
WATCHDOG_S = 8.0


class FakeChannel:
    """Records the messages; refuses them while `full` is true."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.full = self.closed = False

    def send(self, message: str) -> None:
        if self.full:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.messages.append(message)

    def close(self) -> None:
        self.closed = True

    def taken(self) -> list[str]:
        """Return the messages since the last call."""
        messages, self.messages = self.messages, []
        return messages


class ManagerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.channel = FakeChannel()
        self.condition = Condition(False, "connecting")

    def manager(self, watchdog: float | None = None) -> ServiceManager:
        manager = ServiceManager(
            self.channel,
            watchdog,
            condition=lambda: self.condition,
            clock=cast("IReactorTime", self.clock),
            monotonic=lambda: 12.5,
        )
        self.addCleanup(manager.stop)
        return manager

    def ready(self, watchdog: float | None = None) -> ServiceManager:
        """Return a manager that has been told that the role is ready."""
        manager = self.manager(watchdog)
        self.condition = Condition(True, "connected")
        manager.start()
        self.channel.taken()
        return manager


class Readiness(ManagerTestCase):
    def test_ready_later(self) -> None:
        """`READY=1` is sent once, when the role is ready; the status at each change."""
        self.manager().start()
        self.assertEqual(self.channel.taken(), [EXTEND, "STATUS=connecting"])
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.channel.taken(), [])
        self.condition = Condition(True, "connected")
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.channel.taken(), ["READY=1\nSTATUS=connected"])
        self.condition = Condition(False, "connecting")
        self.clock.advance(LOOK_EVERY_S)
        self.condition = Condition(True, "connected")
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.channel.taken(), ["STATUS=connecting", "STATUS=connected"])

    def test_ready_at_once(self) -> None:
        """A role that is ready when its services have started is reported without a delay."""
        self.condition = Condition(True, "listening")
        self.manager().start()
        self.assertEqual(self.channel.taken(), [EXTEND, "READY=1\nSTATUS=listening"])

    def test_start_takes_long(self) -> None:
        """While the role is not ready, the time-out of the start is extended. Then no more."""
        self.manager().start()
        self.channel.taken()
        self.clock.advance(BEAT_EVERY_S)
        self.assertEqual(self.channel.taken(), [EXTEND])
        self.condition = Condition(True, "connected")
        self.clock.pump([BEAT_EVERY_S] * 3)
        self.assertNotIn(EXTEND, self.channel.taken()[1:])

    def test_one_line(self) -> None:
        """A line break in the status does not become a second assignment."""
        self.condition = Condition(True, "connected\nREADY=1")
        self.manager().start()
        self.assertEqual(self.channel.taken()[-1], "READY=1\nSTATUS=connected READY=1")


class Watchdog(ManagerTestCase):
    def test_fed(self) -> None:
        """The watchdog is fed twice in its time, from the start to the end of the stop."""
        manager = self.ready(WATCHDOG_S)
        self.clock.pump([WATCHDOG_S / 2] * 3)
        self.assertEqual(self.channel.taken(), ["WATCHDOG=1"] * 3)
        manager.stopping()
        self.channel.taken()
        self.clock.advance(WATCHDOG_S / 2)
        self.assertEqual(self.channel.taken(), [f"WATCHDOG=1\n{EXTEND}"])
        manager.stop()
        self.clock.advance(WATCHDOG_S)
        self.assertEqual((self.channel.taken(), self.channel.closed), ([], True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_fails_to_look(self) -> None:
        """An error of ours in the condition is logged, and the watchdog is still fed."""
        self.ready(WATCHDOG_S)
        self.patch(self, "condition", None)
        self.clock.advance(WATCHDOG_S / 2)
        self.assertEqual(self.channel.taken(), ["WATCHDOG=1"])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_none(self) -> None:
        """Without a watchdog a role that is ready sends nothing."""
        self.ready()
        self.clock.pump([BEAT_EVERY_S] * 3)
        self.assertEqual(self.channel.taken(), [])

    def test_variables(self) -> None:
        """The watchdog's time is read from the variables, if they are meant for this process."""
        for environment, expected in (
            ({"WATCHDOG_USEC": "8000000"}, 8.0),
            ({"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "7"}, 8.0),
            ({"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "8"}, None),
            ({"WATCHDOG_USEC": "0"}, None),
            ({"WATCHDOG_USEC": "soon"}, None),
            ({}, None),
        ):
            self.assertEqual(watchdog_s(environment, 7), expected, environment)


class Reload(ManagerTestCase):
    def test_reload(self) -> None:
        """A reload is framed by `RELOADING=1` with the system's monotonic time, and `READY=1`."""
        with self.ready().reloading():
            self.assertEqual(self.channel.taken(), ["RELOADING=1\nMONOTONIC_USEC=12500000"])
        self.assertEqual(self.channel.taken(), ["READY=1"])

    def test_error(self) -> None:
        """A reload that fails leaves the state "reloading", too."""
        manager = self.ready()
        with self.assertRaises(ZeroDivisionError), manager.reloading():
            raise ZeroDivisionError
        self.assertEqual(self.channel.taken()[-1], "READY=1")

    def test_before_ready(self) -> None:
        """A reload before the role is ready sends no `READY=1`."""
        manager = self.manager()
        manager.start()
        self.channel.taken()
        with manager.reloading():
            pass
        self.assertEqual(self.channel.taken(), [])

    def test_ready_gets_lost(self) -> None:
        """A `READY=1` that could not be sent after a reload is sent a second later."""
        manager = self.ready()
        with capturedLogs(), manager.reloading():
            self.channel.full = True
        self.channel.full = False
        self.channel.taken()
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.channel.taken(), ["READY=1"])


class Stop(ManagerTestCase):
    def test_stop(self) -> None:
        """The stop is reported at once. Its time is extended while it lasts."""
        manager = self.ready()
        self.condition = Condition(True, "stopping; calls to A under way: 2")
        manager.stopping()
        self.assertEqual(
            self.channel.taken(),
            ["STOPPING=1", "STATUS=stopping; calls to A under way: 2", EXTEND],
        )
        self.condition = Condition(True, "stopping; calls to A under way: 1")
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.channel.taken(), ["STATUS=stopping; calls to A under way: 1"])
        self.clock.advance(BEAT_EVERY_S - LOOK_EVERY_S)
        self.assertEqual(self.channel.taken(), [EXTEND])

    def test_before_ready(self) -> None:
        """A process that stops before it is ready is not reported as ready."""
        manager = self.manager()
        manager.start()
        manager.stopping()
        self.condition = Condition(True, "stopping")
        self.clock.advance(BEAT_EVERY_S)
        self.assertNotIn("READY=1", "\n".join(self.channel.taken()))


class Trouble(ManagerTestCase):
    def test_full(self) -> None:
        """A message that cannot be sent is logged once, and sent at the next look."""
        self.channel.full = True
        self.condition = Condition(True, "connected")
        with capturedLogs() as events:
            self.manager().start()
            self.clock.pump([LOOK_EVERY_S] * 3)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "could not send a message to the service manager (NOTIFY_SOCKET): Resource"
                " temporarily unavailable; trying again"
            ],
        )
        self.channel.full = False
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.channel.taken(), ["READY=1\nSTATUS=connected"])

    def test_no_manager(self) -> None:
        """Without a service manager nothing is sent, and no timer runs."""
        manager = ServiceManager(
            None,
            WATCHDOG_S,
            condition=lambda: self.condition,
            clock=cast("IReactorTime", self.clock),
            monotonic=lambda: 0.0,
        )
        manager.start()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        with manager.reloading():
            pass
        manager.stopping()
        manager.stop()


class Sockets(SynchronousTestCase):
    """Real datagram sockets, with the addresses that systemd uses."""

    def listen(self, address: str | bytes) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listening.close)
        listening.bind(address)
        listening.settimeout(5)
        return listening

    def channel(self, address: str) -> NotifySocket:
        channel = notify_socket({"NOTIFY_SOCKET": address})
        assert channel is not None
        self.addCleanup(channel.close)
        return channel

    def test_path(self) -> None:
        """A path is the address of a socket. When nothing listens there, that is an OSError."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = str(Path(folder.name) / "notify")
        channel = self.channel(path)
        self.assertRaises(FileNotFoundError, channel.send, "READY=1")
        listening = self.listen(path)
        channel.send("READY=1\nSTATUS=connected to здесь")
        self.assertEqual(listening.recv(100), "READY=1\nSTATUS=connected to здесь".encode())
        channel.close()
        channel.close()

    def test_abstract(self) -> None:
        """An address that begins with ``@`` is an abstract name."""
        if not sys.platform.startswith("linux"):
            raise SkipTest("only Linux has abstract names")
        name = f"rtprov-test-{os.getpid()}"
        listening = self.listen(f"\0{name}")
        self.channel(f"@{name}").send("READY=1")
        self.assertEqual(listening.recv(100), b"READY=1")

    def test_never_blocks(self) -> None:
        """If the manager reads nothing, sending fails instead of blocking the reactor."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = str(Path(folder.name) / "notify")
        self.listen(path)
        channel = self.channel(path)

        def fill() -> None:
            for _ in range(100_000):
                channel.send("WATCHDOG=1")

        self.assertRaises(BlockingIOError, fill)

    def test_not_inherited(self) -> None:
        """A child process does not inherit the socket."""
        channel = self.channel("@rtprov-test-nobody")
        self.assertRaises(OSError, channel.send, "READY=1")
        assert channel._socket is not None
        self.assertFalse(os.get_inheritable(channel._socket.fileno()))

    def test_other_addresses(self) -> None:
        """Without the variable there is no channel. Another kind of address is logged."""
        self.assertIsNone(notify_socket({}))
        with capturedLogs() as events:
            self.assertIsNone(notify_socket({"NOTIFY_SOCKET": "vsock:2:1234"}))
        self.assertEqual(len(events), 1)


class Commands(SynchronousTestCase):
    """A command tells its service manager."""

    def setUp(self) -> None:
        self.patch(sys, "excepthook", sys.excepthook)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = str(Path(folder.name) / "notify")
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.manager.close)
        self.manager.bind(path)
        self.manager.setblocking(False)
        self.patch(os, "environ", os.environ | {"NOTIFY_SOCKET": path})

    def told(self) -> list[str]:
        """Return the assignments since the last call, without those that extend a time-out."""
        lines: list[str] = []
        try:
            while True:
                lines += self.manager.recv(1000).decode().splitlines()
        except BlockingIOError:
            return [line for line in lines if not line.startswith("EXTEND")]

    def test_life(self) -> None:
        """A command reports the start, a reload and the stop, and then nothing more."""
        stopped: Deferred[None] = Deferred()
        service = Service()
        self.patch(service, "stopService", lambda: stopped)
        command = Command(parsed("rtprov-stub"), cast("IService", service))
        command.startService()
        self.assertEqual(self.told(), ["READY=1", "STATUS=running"])
        command.reload()
        reloading, _, ready = self.told()
        self.assertEqual((reloading, ready), ("RELOADING=1", "READY=1"))
        command.condition = lambda: Condition(True, "stopping")
        stopping = command.stopService()
        self.assertEqual(self.told(), ["STOPPING=1", "STATUS=stopping"])
        self.assertNoResult(stopping)
        stopped.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.told(), [])


class Conditions(FilesTestCase):
    """What each role says about itself."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(sys, "excepthook", sys.excepthook)
        self.patch(os, "environ", {"RTPROV_CERTS": str(self.certs)})
        make_development_set(self.certs)

    def conditions(self, command: str) -> tuple[Condition, Condition]:
        """Return the conditions of a command before it is connected, and while it stops."""
        module = namedAny(MODULES[command])
        made: Command = module.makeService(parsed(command))
        made.running = True
        started = made.condition()
        made.running = False
        return started, made.condition()

    def test_with_a_broker(self) -> None:
        """Front end and worker are ready when they are connected, and say where to. While they
        stop, they say how much is left.
        """
        broker = "amqp://guest@127.0.0.1:5673/"
        for command, connecting, stopping in (
            ("rtprov-frontend", f"connecting to {broker}", "requests under way: 0"),
            (
                "rtprov-worker",
                f"connecting to {broker}; calls to A under way: 0",
                "calls to A under way: 0",
            ),
        ):
            self.assertEqual(
                self.conditions(command),
                (Condition(False, connecting), Condition(True, f"stopping; {stopping}")),
            )

    def test_without(self) -> None:
        """The stub is ready when it listens."""
        self.assertEqual(
            self.conditions("rtprov-stub"),
            (
                Condition(True, "listening on tcp:8444:interface=127.0.0.1"),
                Condition(True, "stopping"),
            ),
        )

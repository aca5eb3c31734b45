"""`rtprov.tap.process`: the reactor uses the awake clock, and stops and steps of time are
logged.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from rtprov.clocks import AwakeClock, WallClock
from rtprov.tap.process import TimeWatch, clock, wall_clock


class Reactor(SynchronousTestCase):
    def test_timers_use_the_awake_clock(self) -> None:
        """Twisted's timers use the awake clock. `ReactorBase.callLater` calls `self.seconds`
        (checked with Twisted 26.10).
        """
        self.assertIs(clock, reactor)
        seconds = cast("Any", reactor).seconds
        self.assertIsInstance(seconds.__self__, AwakeClock)
        call = clock.callLater(1000.0, lambda: None)
        self.addCleanup(call.cancel)
        self.assertLess(abs(call.getTime() - clock.seconds() - 1000.0), 60.0)

    def test_it_starts_at_the_wall_clock(self) -> None:
        """The awake clock starts near the wall clock, so that its times can be compared with those
        of an earlier process.
        """
        self.assertLess(abs(clock.seconds() - wall_clock()), 3600.0)


class Watching(SynchronousTestCase):
    def setUp(self) -> None:
        self.timers = Clock()
        self.monotonic, self.wall = 0.0, 1_800_000_000.0
        awake = AwakeClock(lambda: self.monotonic)
        self.watch = TimeWatch(
            awake, WallClock(lambda: self.wall, awake.seconds), cast("IReactorTime", self.timers)
        )
        self.logged: list[str] = []
        observer = cast("ILogObserver", self.observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.watch.startService()

    def observe(self, event: LogEvent) -> None:
        self.logged.append(formatEvent(event))

    def pass_by(self, monotonic: float, wall: float) -> None:
        self.monotonic += monotonic
        self.wall += wall
        self.timers.advance(1.0)

    def test_a_stop(self) -> None:
        """A time in which the process did not run is logged once, with its length, and not as a
        step of the clock.
        """
        self.pass_by(1.0, 1.0)
        self.pass_by(600.0, 600.0)
        self.pass_by(1.0, 1.0)
        self.assertEqual(len(self.logged), 1)
        self.assertIn("did not run for 600.0 s", self.logged[0])

    def test_a_step(self) -> None:
        """A step of the system's clock is logged once, with its direction."""
        self.pass_by(1.0, 601.0)
        self.pass_by(1.0, 1.0)
        self.pass_by(1.0, -599.0)
        self.assertEqual(
            [line.partition(";")[0] for line in self.logged],
            [
                "the system's clock was set 600.0 s forward",
                "the system's clock was set 600.0 s back",
            ],
        )

    def test_lag(self) -> None:
        """The longest delay of a reading is known for a minute."""
        self.assertEqual(self.watch.lag_s, 0.0)
        self.timers.advance(1.0)
        self.timers.advance(1.25)
        self.assertAlmostEqual(self.watch.lag_s, 0.25)
        self.timers.advance(0.75)
        for _ in range(58):
            self.timers.advance(1.0)
        self.assertAlmostEqual(self.watch.lag_s, 0.25)
        self.timers.advance(1.0)
        self.timers.advance(1.0)
        self.assertEqual(self.watch.lag_s, 0.0)

    def test_nothing_happens(self) -> None:
        """If nothing happens, nothing is logged, and no timer is left at the stop."""
        for _ in range(10):
            self.pass_by(1.0, 1.0)
        self.watch.stopService()
        self.assertEqual((self.logged, self.timers.getDelayedCalls()), ([], []))

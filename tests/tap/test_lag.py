"""`rtprov.tap.lag`: a busy reactor is measured, and logged with what ran."""

from __future__ import annotations

import gc
import sys
import threading
from random import Random
from types import FrameType
from typing import cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from rtprov.backoff import jittered_backoff_s
from rtprov.tap.lag import EVERY_S, LOOKED_FROM_S, QUIET_S, GcTime, LagWatch, StackLookout, describe


class FakeLookout:
    """A `Lookout` that has seen what the test says."""

    what = "rtprov.x.f:1"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def expect(self, in_s: float) -> None:
        self.calls.append(f"expect in {in_s}")

    def seen(self) -> str:
        return self.what

    def stop(self) -> None:
        self.calls.append("stop")


class Measuring(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.lookout = FakeLookout()
        self.gc_s = 0.0
        self.watch = LagWatch(cast("IReactorTime", self.clock), self.lookout, lambda: self.gc_s)
        self.lines: list[str] = []
        observer = cast("ILogObserver", lambda event: self.lines.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.watch.startService()

    def busy(self, seconds: float) -> None:
        """Let a turn of the reactor take so long, just after the timer was set."""
        self.clock.rightNow += EVERY_S + seconds
        self.clock.advance(0)

    def idle(self, seconds: float) -> None:
        self.clock.pump([EVERY_S / 4] * round(4 * seconds / EVERY_S))

    def test_idle(self) -> None:
        """An idle process has no lag worth mentioning."""
        self.idle(5)
        self.assertLess(self.watch.longest_s, EVERY_S / 2)
        self.assertEqual(self.lines, [])

    def test_measured(self) -> None:
        """The lag is what a timer was late. The longest one of the last minute is known."""
        self.busy(0.2)
        self.assertAlmostEqual(self.watch.current_s, 0.2)
        self.idle(1)
        self.assertLess(self.watch.current_s, EVERY_S / 2)
        self.assertAlmostEqual(self.watch.longest_s, 0.2)
        self.idle(80)
        self.assertLess(self.watch.longest_s, EVERY_S / 2)
        self.assertEqual(self.lines, [])

    def test_logged(self) -> None:
        """A lag over 0.25 s is logged, with what ran and how much of it the collector took."""
        self.gc_s += 0.12
        self.busy(0.3)
        self.assertEqual(
            self.lines,
            [
                "this process answered nothing for 0.30 s, because it was busy; garbage"
                " collection: 0.12 s; what ran: rtprov.x.f:1"
            ],
        )

    def test_unknown(self) -> None:
        """Without a look at the stack in time, the line says so."""
        self.lookout.what = ""
        self.busy(1)
        self.assertIn("what ran: unknown", self.lines[0])

    def test_rate(self) -> None:
        """At most one line is written in ten seconds; the next one counts the others."""
        for seconds in (0.3, 0.7, 0.4):
            self.busy(seconds)
        self.assertEqual(len(self.lines), 1)
        self.idle(QUIET_S)
        self.busy(0.5)
        self.assertEqual(len(self.lines), 2)
        self.assertTrue(
            self.lines[1].endswith("; 2 more times since the last such line, for 0.70 s at most"),
            self.lines[1],
        )
        self.idle(QUIET_S)
        self.busy(0.5)
        self.assertTrue(self.lines[2].endswith("rtprov.x.f:1"), self.lines[2])

    def test_stop(self) -> None:
        """After a stop there is no timer and no look."""
        self.watch.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.lookout.calls[-1], "stop")

    def test_the_lookout_knows_the_timer(self) -> None:
        """The lookout is told of each timer."""
        self.idle(2 * EVERY_S)
        self.assertEqual(self.lookout.calls[:3], ["start", *[f"expect in {EVERY_S}"] * 2])


class Collecting(SynchronousTestCase):
    def test_time(self) -> None:
        """The time of each collection is added up."""
        now = 0.0

        def monotonic() -> float:
            nonlocal now
            now += 0.5
            return now

        time = GcTime(monotonic)
        before = len(gc.callbacks)
        time.watch()
        time.watch()
        self.addCleanup(gc.callbacks.pop)
        self.assertEqual((len(gc.callbacks), time()), (before + 1, 0.0))
        gc.collect()
        self.assertEqual(time() % 0.5, 0.0)
        self.assertGreater(time(), 0.0)


class Looking(SynchronousTestCase):
    """What ran is read from the stack of the reactor's thread."""

    def setUp(self) -> None:
        self.now = 0.0
        self.lookout = StackLookout(lambda: self.now, self.frames)
        self.lookout._watched = threading.get_ident()
        self.lookout.expect(EVERY_S)

    def frames(self) -> dict[int, FrameType]:
        return sys._current_frames()

    def test_in_time(self) -> None:
        """While the timer is not late, the stack is not read."""
        self.assertAlmostEqual(self.lookout.look(), EVERY_S + LOOKED_FROM_S)
        self.now += EVERY_S + LOOKED_FROM_S / 2
        self.assertAlmostEqual(self.lookout.look(), LOOKED_FROM_S / 2)
        self.assertEqual(self.lookout.seen(), "")

    def test_late(self) -> None:
        """When it is late, the innermost function is read, until the next timer is set."""
        self.now += 1
        self.lookout.look()
        self.assertIn("tests.tap.test_lag.frames:", self.lookout.seen())
        self.lookout.expect(EVERY_S)
        self.assertEqual(self.lookout.seen(), "")

    def test_description(self) -> None:
        """A stack is described by its innermost function and those of rtprov, with lines, and
        without values.
        """
        found: list[str] = []

        class Spy:
            def random(self) -> float:
                found.append(describe(sys._getframe()))
                return 0.5

        jittered_backoff_s(1, cast("Random", Spy()), first_s=1.0, longest_s=2.0)
        (names,) = (each.split(" < ") for each in found)
        self.assertEqual(
            [name.rpartition(":")[0] for name in names],
            ["tests.tap.test_lag.random", "rtprov.backoff.jittered_backoff_s"],
        )

    def test_a_thread(self) -> None:
        """The thread ends when the lookout is stopped."""
        lookout = StackLookout()
        lookout.start()
        (thread,) = (each for each in threading.enumerate() if each.name == "rtprov-lag")
        lookout.stop()
        thread.join(5)
        self.assertFalse(thread.is_alive())

"""`rtprov.clocks`: deadlines that count only the time in which the process ran, and ages that
ignore steps of the system clock.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtprov.clocks import LONGEST_GAP_S, MAX_STEPS, AwakeClock, WallClock

EPOCH = 1_800_000_000.0


class Machine:
    """A machine whose process reads its clocks once a second while it runs."""

    def __init__(self) -> None:
        self.monotonic = 1000.0
        self.wall = EPOCH
        self.awake = AwakeClock(lambda: self.monotonic, start=EPOCH)
        self.clock = WallClock(lambda: self.wall, self.awake.seconds)

    def pass_by(self, seconds: float, *, asleep: bool = False) -> None:
        """Let time pass. With `asleep`, the process is suspended all that time."""
        while seconds > 0:
            step_s = seconds if asleep else min(1.0, seconds)
            seconds -= step_s
            self.monotonic += step_s
            self.wall += step_s
            self.clock()


class AwakeClockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.awake = self.machine.awake

    def test_running(self) -> None:
        """While the process runs, its clock advances with the monotonic clock, from its
        start on.
        """
        self.machine.pass_by(90.0)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 90.0, places=3)
        self.assertEqual(self.awake.stopped_s, 0.0)

    def test_stopped(self) -> None:
        """The time of a suspension does not count, and is reported."""
        self.machine.pass_by(5.0)
        self.machine.pass_by(600.0, asleep=True)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 5.0, places=3)
        self.assertAlmostEqual(self.awake.stopped_s, 600.0, places=3)
        self.machine.pass_by(5.0)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 10.0, places=3)

    def test_a_long_turn(self) -> None:
        """A reactor turn that takes long counts: a busy process has deadlines too."""
        self.machine.pass_by(LONGEST_GAP_S, asleep=True)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, LONGEST_GAP_S, places=3)

    def test_never_back(self) -> None:
        """The clock never goes back, even if the monotonic clock does."""
        self.machine.pass_by(10.0)
        self.machine.monotonic -= 600.0
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 10.0, places=3)
        self.machine.pass_by(1.0)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 11.0, places=3)

    def test_the_wall_clock_is_not_asked(self) -> None:
        """A step of the system clock does not change this clock."""
        self.machine.wall += 3600.0
        self.machine.pass_by(1.0)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 1.0, places=3)


class WallClockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.clock = self.machine.clock

    def step(self, seconds: float) -> None:
        self.machine.wall += seconds
        self.machine.pass_by(1.0)

    def test_age(self) -> None:
        """The age of a time is the seconds since then. A time in the future has age 0."""
        self.machine.pass_by(30.0)
        self.assertAlmostEqual(self.clock.age_s(EPOCH), 30.0, places=3)
        self.assertEqual(self.clock.age_s(EPOCH + 100.0), 0.0)

    def test_forward(self) -> None:
        """After a step forward, times noted before it are not older, and times noted after it are
        not younger.
        """
        self.machine.pass_by(10.0)
        self.step(600.0)
        after = self.clock()
        self.machine.pass_by(9.0)
        self.assertAlmostEqual(self.clock() - EPOCH, 620.0, places=3)
        self.assertAlmostEqual(self.clock.age_s(EPOCH), 20.0, places=3)
        self.assertAlmostEqual(self.clock.age_s(after), 9.0, places=3)

    def test_back(self) -> None:
        """After a step back, times noted long before it keep their age. If a time is ambiguous, the
        smaller age counts.
        """
        self.machine.pass_by(1000.0)
        before = self.clock()
        self.step(-600.0)
        self.machine.pass_by(19.0)
        self.assertAlmostEqual(self.clock.age_s(EPOCH), 1020.0, places=3)
        self.assertEqual(self.clock.age_s(before), 0.0)

    def test_there_and_back(self) -> None:
        """Several steps add up."""
        self.step(600.0)
        self.step(-600.0)
        self.machine.pass_by(18.0)
        self.assertAlmostEqual(self.clock.age_s(EPOCH), 20.0, places=3)
        self.assertAlmostEqual(self.clock.age_s(EPOCH - 50.0), 70.0, places=3)

    def test_back_and_further_forward(self) -> None:
        """The clock is set back, and soon after forward over the times that it has shown before."""
        for size_s in (-110.0, 580.0):
            self.machine.pass_by(10.0)
            self.step(size_s)
        self.machine.pass_by(10.0)
        self.assertAlmostEqual(self.clock.age_s(EPOCH + 1.0), 31.0, places=3)

    def test_a_stop_is_like_a_step(self) -> None:
        """A suspension of the process does not make a time older."""
        self.machine.pass_by(10.0)
        self.machine.pass_by(600.0, asleep=True)
        self.machine.pass_by(10.0)
        self.assertAlmostEqual(self.clock.age_s(EPOCH), 20.0, places=3)

    def test_slow_corrections_are_no_steps(self) -> None:
        """NTP's slow corrections of the clock (slewing) are followed."""
        for _ in range(1000):
            self.machine.wall += 0.0005
            self.machine.pass_by(1.0)
        self.assertEqual(len(self.clock.steps), 0)

    def test_many_steps(self) -> None:
        """The memory for steps is limited to a hundred steps."""
        for _ in range(2 * MAX_STEPS):
            self.step(2.0)
        self.assertEqual(len(self.clock.steps), MAX_STEPS)

    def test_without_jumps(self) -> None:
        """Steps forward are ignored if counting them could shorten a retention. Steps back
        are not.
        """
        self.machine.pass_by(10.0)
        self.step(86400.0)
        self.assertAlmostEqual(self.clock.without_jumps(3600.0) - EPOCH, 11.0, places=3)
        self.machine.pass_by(3601.0)
        self.assertAlmostEqual(self.clock.without_jumps(3600.0), self.clock(), places=3)
        self.step(-600.0)
        self.assertAlmostEqual(self.clock.without_jumps(3600.0), self.clock(), places=3)

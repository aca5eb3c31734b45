"""`rtprov.clocks`: deadlines that survive a stop of the process, and ages that survive a step of
the system's clock.
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
        """Let time pass; with `asleep`, the process is stopped all that time."""
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
        """While the process runs its clock goes with the monotonic one, from its start on."""
        self.machine.pass_by(90.0)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 90.0, places=3)
        self.assertEqual(self.awake.stopped_s, 0.0)

    def test_stopped(self) -> None:
        """The time of a stop does not count, and is told."""
        self.machine.pass_by(5.0)
        self.machine.pass_by(600.0, asleep=True)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 5.0, places=3)
        self.assertAlmostEqual(self.awake.stopped_s, 600.0, places=3)
        self.machine.pass_by(5.0)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 10.0, places=3)

    def test_a_long_turn(self) -> None:
        """A turn that only takes long counts: a busy process has deadlines, too."""
        self.machine.pass_by(LONGEST_GAP_S, asleep=True)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, LONGEST_GAP_S, places=3)

    def test_never_back(self) -> None:
        """A monotonic clock that goes back all the same does not take this one back."""
        self.machine.pass_by(10.0)
        self.machine.monotonic -= 600.0
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 10.0, places=3)
        self.machine.pass_by(1.0)
        self.assertAlmostEqual(self.awake.seconds() - EPOCH, 11.0, places=3)

    def test_the_wall_clock_is_not_asked(self) -> None:
        """A step of the system's clock is nothing to it."""
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
        """A time is as old as the seconds that have passed since; one that is still to come is not
        old at all.
        """
        self.machine.pass_by(30.0)
        self.assertAlmostEqual(self.clock.age_s(EPOCH), 30.0, places=3)
        self.assertEqual(self.clock.age_s(EPOCH + 100.0), 0.0)

    def test_forward(self) -> None:
        """A step forward makes nothing older that was noted before it, and nothing younger that was
        noted after it.
        """
        self.machine.pass_by(10.0)
        self.step(600.0)
        after = self.clock()
        self.machine.pass_by(9.0)
        self.assertAlmostEqual(self.clock() - EPOCH, 620.0, places=3)
        self.assertAlmostEqual(self.clock.age_s(EPOCH), 20.0, places=3)
        self.assertAlmostEqual(self.clock.age_s(after), 9.0, places=3)

    def test_back(self) -> None:
        """After a step back what was noted long before is as old as it is; what is ambiguous counts
        as young.
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

    def test_a_stop_is_like_a_step(self) -> None:
        """The time in which the process did not run makes nothing older either."""
        self.machine.pass_by(10.0)
        self.machine.pass_by(600.0, asleep=True)
        self.machine.pass_by(10.0)
        self.assertAlmostEqual(self.clock.age_s(EPOCH), 20.0, places=3)

    def test_slow_corrections_are_no_steps(self) -> None:
        """NTP's slewing is followed."""
        for _ in range(1000):
            self.machine.wall += 0.0005
            self.machine.pass_by(1.0)
        self.assertEqual(len(self.clock.steps), 0)

    def test_many_steps(self) -> None:
        """A clock that is set again and again costs no more memory than a hundred steps."""
        for _ in range(2 * MAX_STEPS):
            self.step(2.0)
        self.assertEqual(len(self.clock.steps), MAX_STEPS)

    def test_without_jumps(self) -> None:
        """Steps forward are left out for as long as they may shorten what is kept; steps back are
        not.
        """
        self.machine.pass_by(10.0)
        self.step(86400.0)
        self.assertAlmostEqual(self.clock.without_jumps(3600.0) - EPOCH, 11.0, places=3)
        self.machine.pass_by(3601.0)
        self.assertAlmostEqual(self.clock.without_jumps(3600.0), self.clock(), places=3)
        self.step(-600.0)
        self.assertAlmostEqual(self.clock.without_jumps(3600.0), self.clock(), places=3)

"""When the breaker opens, how it probes and how it lets calls grow back: by examples, and in any
order of events.
"""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.worker.circuit_breaker import (
    FAILURE_THRESHOLD,
    FIRST_GROWTH,
    FIRST_PROBE_S,
    GROWTH_STEP_S,
    LONGEST_PROBE_S,
    LONGEST_RETRY_AFTER_S,
    PROBE_OVERDUE_S,
    ROW_WHILE_GROWING,
    CircuitBreaker,
)

CONCURRENCY = 500


class BreakerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.breaker = CircuitBreaker(concurrency=CONCURRENCY, rng=random.Random(7))

    def call(
        self, device: str, *, answered: bool = False, retry_after_s: float | None = None
    ) -> None:
        """A whole call, in no time."""
        self.assertTrue(self.breaker.may_begin(self.now))
        generation = self.breaker.begin(self.now)
        if answered:
            self.breaker.answered(self.now)
        else:
            self.breaker.outage(generation, device, self.now, retry_after_s)
        self.breaker.end(generation)

    def row(self, length: int = FAILURE_THRESHOLD) -> None:
        for number in range(length):
            self.call(f"DEVICE{number}")

    def wait(self) -> float:
        """Let time pass until a call may begin; return how much."""
        waited_s = 0.0
        while not self.breaker.may_begin(self.now):
            look_s = self.breaker.next_look_s(self.now)
            assert look_s is not None and look_s > 0
            self.now += look_s
            waited_s += look_s
        return waited_s

    def room(self) -> int:
        """How many calls may begin now."""
        eras: list[int] = []
        while len(eras) < CONCURRENCY and self.breaker.may_begin(self.now):
            eras.append(self.breaker.begin(self.now))
        for generation in eras:
            self.breaker.end(generation)
        return len(eras)


class Opening(BreakerTestCase):
    def test_a_row(self) -> None:
        """Ten devices in a row without an answer open it, and no call may begin; nine do not."""
        self.row(FAILURE_THRESHOLD - 1)
        self.assertTrue(self.breaker.closed)
        self.assertEqual(self.room(), CONCURRENCY)
        self.call("ONEMORE")
        self.assertFalse(self.breaker.closed)
        self.assertEqual(self.room(), 0)

    def test_answers_in_between(self) -> None:
        """An answer to anybody begins the row anew."""
        for _ in range(10):
            self.row(FAILURE_THRESHOLD - 1)
            self.call("WELL", answered=True)
        self.assertTrue(self.breaker.closed)

    def test_one_device(self) -> None:
        """One device's outages are its own, however many."""
        for _ in range(1000):
            self.call("BUSY123456")
        self.assertTrue(self.breaker.closed)

    def test_answers_that_set_the_pace(self) -> None:
        """Devices that are told when to come back are paced by that: they neither make a row nor
        break one.
        """
        self.row(FAILURE_THRESHOLD - 1)
        for number in range(1000):
            self.call(f"BUSY{number}", retry_after_s=0.0)
        self.assertTrue(self.breaker.closed)
        self.call("ONEMORE")
        self.assertFalse(self.breaker.closed)


class Probing(BreakerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.row()

    def test_growing_intervals(self) -> None:
        """Probes come at intervals from 1 s doubling to 15 s, jittered down to a half."""
        longest_s = FIRST_PROBE_S
        for number in range(12):
            waited_s = self.wait()
            self.assertTrue(longest_s / 2 <= waited_s <= longest_s, (number, waited_s))
            self.assertEqual(self.room(), 1)
            self.call(f"PROBE{number}")
            longest_s = min(LONGEST_PROBE_S, 2 * longest_s)

    def test_one_at_a_time(self) -> None:
        """While a probe is under way no other begins, unless it is long overdue."""
        self.wait()
        self.breaker.begin(self.now)
        self.assertAlmostEqual(self.wait(), PROBE_OVERDUE_S)
        self.assertEqual(self.room(), 1)

    def test_a_probe_that_is_given_up(self) -> None:
        """A probe that ends without having called leaves its place to the next one at once."""
        self.wait()
        generation = self.breaker.begin(self.now)
        self.assertEqual(self.room(), 0)
        self.breaker.end(generation)
        self.assertEqual(self.room(), 1)

    def test_retry_after(self) -> None:
        """A's own Retry-After puts the next probe off, but not without limit."""
        for asked_s, granted_s in ((120.0, 120.0), (86400.0, LONGEST_RETRY_AFTER_S)):
            self.wait()
            self.call("PROBE", retry_after_s=asked_s)
            self.assertAlmostEqual(self.wait(), granted_s)

    def test_silence_of_the_past(self) -> None:
        """Calls that began before it opened change nothing when they end without an answer."""
        breaker = CircuitBreaker(concurrency=CONCURRENCY, rng=random.Random(7))
        eras = [breaker.begin(self.now) for _ in range(CONCURRENCY)]
        for number, generation in enumerate(eras):
            breaker.outage(generation, f"DEVICE{number}", self.now, None)
            breaker.end(generation)
        self.assertLessEqual(breaker.next_look_s(self.now) or 0.0, FIRST_PROBE_S)

    def test_an_answer_of_the_past(self) -> None:
        """The late answer to a call that began before it opened tells that A is there."""
        self.breaker.answered(self.now)
        self.assertEqual(self.room(), FIRST_GROWTH)


class Growing(BreakerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.row()
        self.wait()
        self.call("PROBE", answered=True)

    def test_step_by_step(self) -> None:
        """Calls grow back from 5 at once, doubling every two seconds, until all are allowed and it
        is closed.
        """
        rooms = []
        while not self.breaker.closed:
            rooms.append(self.room())
            self.now += GROWTH_STEP_S
        self.assertEqual(rooms, [5, 10, 20, 40, 80, 160, 320, 500])
        self.assertIsNone(self.breaker.next_look_s(self.now))

    def test_a_short_row(self) -> None:
        """Three devices in a row without an answer open it again, and its probes are as rare as
        before; two do not.
        """
        self.row(ROW_WHILE_GROWING - 1)
        self.call("WELL", answered=True)
        self.row(ROW_WHILE_GROWING - 1)
        self.assertTrue(self.breaker.half_open)
        self.call("ONEMORE")
        self.assertFalse(self.breaker.half_open)
        self.assertGreaterEqual(self.wait(), FIRST_PROBE_S)

    def test_afterwards(self) -> None:
        """Once closed, it begins with the shortest interval again."""
        self.now += 60.0
        self.assertTrue(self.breaker.may_begin(self.now))
        self.row()
        self.assertLessEqual(self.wait(), FIRST_PROBE_S)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "answer", "outage", "give up", "wait"]),
        st.integers(0, 30),
        st.floats(0.0, 100.0),
    ),
    max_size=200,
)


class AnyOrder(SynchronousTestCase):
    """Whatever happens in whatever order."""

    @given(steps=STEPS, seed=st.integers(0, 99))
    def test_it_never_sticks(self, steps: list[tuple[str, int, float]], seed: int) -> None:
        """Open, it lets one probe through at a time; and when A answers all calls again, it closes
        before long.
        """
        now, under_way = 0.0, list[int]()
        breaker = CircuitBreaker(concurrency=20, rng=random.Random(seed))
        for what, number, seconds in steps:
            open_before, probing = not breaker.closed and not breaker.half_open, breaker._under_way
            if what == "wait":
                now += seconds
            elif what == "begin":
                if breaker.may_begin(now):
                    self.assertFalse(open_before and probing and now < breaker._overdue_at)
                    under_way.append(breaker.begin(now))
            elif under_way:
                generation = under_way.pop(number % len(under_way))
                if what == "answer":
                    breaker.answered(now)
                elif what == "outage":
                    breaker.outage(
                        generation, f"DEVICE{number}", now, seconds if number % 2 else None
                    )
                breaker.end(generation)
            self.assertGreaterEqual(breaker._under_way, 0)
            self.assertLessEqual(breaker._under_way, len(under_way))
        for generation in under_way:
            breaker.end(generation)
        limit = now + LONGEST_RETRY_AFTER_S + 60.0
        while not breaker.closed and now < limit:
            now += max(breaker.next_look_s(now) or 0.0, 0.01)
            if breaker.may_begin(now):
                generation = breaker.begin(now)
                breaker.answered(now)
                breaker.end(generation)
        self.assertTrue(breaker.closed)

    @given(outcomes=st.lists(st.tuples(st.integers(0, FAILURE_THRESHOLD - 2), st.booleans())))
    def test_few_devices(self, outcomes: list[tuple[int, bool]]) -> None:
        """As long as nine devices or fewer are in trouble, it stays closed."""
        breaker = CircuitBreaker(concurrency=20, rng=random.Random(1))
        for device, answered in outcomes:
            generation = breaker.begin(0.0)
            if answered:
                breaker.answered(0.0)
            else:
                breaker.outage(generation, f"DEVICE{device}", 0.0)
            breaker.end(generation)
            self.assertTrue(breaker.closed)

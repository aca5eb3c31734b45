"""The circuit breaker: when it opens, how it probes, and how it lets calls grow back. Examples, and
properties for any order of events.
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
    HALF_OPEN_FAILURE_THRESHOLD,
    LONGEST_PROBE_S,
    LONGEST_RETRY_AFTER_S,
    PROBE_OVERDUE_S,
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
        """Make a call that ends at once."""
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
        """Let time pass until a call may begin; return the seconds waited."""
        waited_s = 0.0
        while not self.breaker.may_begin(self.now):
            look_s = self.breaker.next_look_s(self.now)
            assert look_s is not None and look_s > 0
            self.now += look_s
            waited_s += look_s
        return waited_s

    def room(self) -> int:
        """Return how many calls may begin now."""
        eras: list[int] = []
        while len(eras) < CONCURRENCY and self.breaker.may_begin(self.now):
            eras.append(self.breaker.begin(self.now))
        for generation in eras:
            self.breaker.end(generation)
        return len(eras)


class Opening(BreakerTestCase):
    def test_a_row(self) -> None:
        """The breaker opens after ten devices in a row without an answer, and not after nine."""
        self.row(FAILURE_THRESHOLD - 1)
        self.assertTrue(self.breaker.closed)
        self.assertEqual(self.room(), CONCURRENCY)
        self.call("ONEMORE")
        self.assertFalse(self.breaker.closed)
        self.assertEqual(self.room(), 0)

    def test_answers_in_between(self) -> None:
        """Each answer starts a new row."""
        for _ in range(10):
            self.row(FAILURE_THRESHOLD - 1)
            self.call("WELL", answered=True)
        self.assertTrue(self.breaker.closed)

    def test_one_device(self) -> None:
        """The outages of one device never open the breaker."""
        for _ in range(1000):
            self.call("BUSY123456")
        self.assertTrue(self.breaker.closed)

    def test_answers_that_set_the_pace(self) -> None:
        """Outages with a Retry-After neither count in a row nor end it."""
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
        """The intervals between probes double from 1 s to 15 s, jittered down to one half."""
        longest_s = FIRST_PROBE_S
        for number in range(12):
            waited_s = self.wait()
            self.assertTrue(longest_s / 2 <= waited_s <= longest_s, (number, waited_s))
            self.assertEqual(self.room(), 1)
            self.call(f"PROBE{number}")
            longest_s = min(LONGEST_PROBE_S, 2 * longest_s)

    def test_one_at_a_time(self) -> None:
        """Only one probe runs at a time, unless it is long overdue."""
        self.wait()
        self.breaker.begin(self.now)
        self.assertAlmostEqual(self.wait(), PROBE_OVERDUE_S)
        self.assertEqual(self.room(), 1)

    def test_a_probe_that_is_given_up(self) -> None:
        """If a probe ends without a call, the next one may begin at once."""
        self.wait()
        generation = self.breaker.begin(self.now)
        self.assertEqual(self.room(), 0)
        self.breaker.end(generation)
        self.assertEqual(self.room(), 1)

    def test_retry_after(self) -> None:
        """A's Retry-After postpones the next probe, up to a limit."""
        for asked_s, granted_s in ((120.0, 120.0), (86400.0, LONGEST_RETRY_AFTER_S)):
            self.wait()
            self.call("PROBE", retry_after_s=asked_s)
            self.assertAlmostEqual(self.wait(), granted_s)

    def test_silence_of_the_past(self) -> None:
        """Calls from before the breaker opened change nothing if they end without an answer."""
        breaker = CircuitBreaker(concurrency=CONCURRENCY, rng=random.Random(7))
        eras = [breaker.begin(self.now) for _ in range(CONCURRENCY)]
        for number, generation in enumerate(eras):
            breaker.outage(generation, f"DEVICE{number}", self.now, None)
            breaker.end(generation)
        self.assertLessEqual(breaker.next_look_s(self.now) or 0.0, FIRST_PROBE_S)

    def test_an_answer_of_the_past(self) -> None:
        """An answer to a call from before the breaker opened counts: A is reachable."""
        self.breaker.answered(self.now)
        self.assertEqual(self.room(), FIRST_GROWTH)


class Growing(BreakerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.row()
        self.wait()
        self.call("PROBE", answered=True)

    def test_step_by_step(self) -> None:
        """The limit grows from 5 calls and doubles every two seconds, until all calls are allowed
        and the breaker is closed.
        """
        rooms = []
        while not self.breaker.closed:
            rooms.append(self.room())
            self.now += GROWTH_STEP_S
        self.assertEqual(rooms, [5, 10, 20, 40, 80, 160, 320, 500])
        self.assertIsNone(self.breaker.next_look_s(self.now))

    def test_a_short_row(self) -> None:
        """While the limit grows, three devices in a row without an answer open the breaker again,
        with the same interval between probes as before. Two do not.
        """
        self.row(HALF_OPEN_FAILURE_THRESHOLD - 1)
        self.call("WELL", answered=True)
        self.row(HALF_OPEN_FAILURE_THRESHOLD - 1)
        self.assertTrue(self.breaker.half_open)
        self.call("ONEMORE")
        self.assertFalse(self.breaker.half_open)
        self.assertGreaterEqual(self.wait(), FIRST_PROBE_S)

    def test_afterwards(self) -> None:
        """After the breaker has closed, probes start with the shortest interval again."""
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
    """Properties that hold for any order of events."""

    @given(steps=STEPS, seed=st.integers(0, 99))
    def test_it_never_sticks(self, steps: list[tuple[str, int, float]], seed: int) -> None:
        """An open breaker allows one probe at a time. If A answers all calls again, the breaker
        closes within a limited time.
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
        """The breaker stays closed as long as at most nine devices fail."""
        breaker = CircuitBreaker(concurrency=20, rng=random.Random(1))
        for device, answered in outcomes:
            generation = breaker.begin(0.0)
            if answered:
                breaker.answered(0.0)
            else:
                breaker.outage(generation, f"DEVICE{device}", 0.0)
            breaker.end(generation)
            self.assertTrue(breaker.closed)

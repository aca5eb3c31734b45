"""The deadlines of the steps of requests."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.frontend.deadline import Deadlines


class Limits(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(cast("IReactorTime", self.clock))

    def step(self, deadline: float) -> Deferred[str]:
        return self.deadlines.limit(Deferred(), deadline)

    def test_in_time(self) -> None:
        """A step that ends before its deadline has its own result, and leaves no timer."""
        done, failed = self.step(4.5), self.step(4.5)
        self.clock.advance(4.4)
        done.callback("result")
        failed.errback(KeyError("k"))
        self.assertEqual(self.successResultOf(done), "result")
        self.failureResultOf(failed, KeyError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late(self) -> None:
        """Each step that has not ended at its deadline fails then, neither earlier nor later."""
        steps = []
        for _ in range(3):
            steps.append(self.step(self.clock.seconds() + 4.5))
            self.clock.advance(1.0)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(1.5 - 1e-6)
        self.assertNoResult(steps[0])
        self.clock.advance(2e-6)
        self.failureResultOf(steps[0], TimeoutError)
        self.assertNoResult(steps[1])
        steps[1].callback("in time")
        self.assertEqual(self.successResultOf(steps[1]), "in time")
        self.clock.advance(2.0)
        self.failureResultOf(steps[2], TimeoutError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_earlier_deadline(self) -> None:
        """A step may have an earlier deadline than the one before it, or one that has passed."""
        late, early, past = self.step(4.5), self.step(1.0), self.step(-1.0)
        self.clock.advance(0)
        self.failureResultOf(past, TimeoutError)
        self.clock.advance(1.0)
        self.failureResultOf(early, TimeoutError)
        self.assertNoResult(late)
        self.clock.advance(3.5)
        self.failureResultOf(late, TimeoutError)

    def test_cancelled(self) -> None:
        """A step that its owner cancels fails with `CancelledError`."""
        step = self.step(4.5)
        step.cancel()
        self.failureResultOf(step, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_late_step_ends_and_begins_others(self) -> None:
        """When a late step is cancelled, others may end, and new ones may begin."""
        first, second = self.step(4.5), self.step(4.5)
        begun: list[Deferred[str]] = []

        def go_on(_: object) -> None:
            second.callback("ended by the first")
            begun.append(self.step(9.0))

        first.addErrback(go_on)
        self.clock.advance(4.5)
        self.assertEqual(self.successResultOf(second), "ended by the first")
        self.clock.advance(4.5)
        self.failureResultOf(begun[0], TimeoutError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

"""The decision whether A is called for a job."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtprov.journal.task_view import TaskView
from rtprov.worker.decision import Step, next_step


class NextStep(SynchronousTestCase):
    def decide(
        self,
        needs_no_call: bool | None,
        *,
        may_begin: bool = True,
        needs_barrier: bool = False,
        appended: bool = False,
    ) -> Step:
        return next_step(
            TaskView(needs_no_call),
            may_begin=may_begin,
            needs_barrier=needs_barrier,
            appended=appended,
        )

    def test_open(self) -> None:
        """A is called for the order of an open task."""
        self.assertIs(self.decide(False), Step.CALL)
        self.assertIs(self.decide(False, appended=True), Step.CALL)

    def test_over(self) -> None:
        """No call is made if the task has ended, or the message is not its order."""
        self.assertIs(self.decide(True), Step.SKIP)
        self.assertIs(self.decide(True, appended=True), Step.SKIP)

    def test_unknown(self) -> None:
        """A message that the journal lacks is appended. If it is still unknown after that, it is
        skipped.
        """
        self.assertIs(self.decide(None), Step.APPEND)
        self.assertIs(self.decide(None, appended=True), Step.SKIP)

    def test_barrier_first(self) -> None:
        """While the replica may lack events, the barrier comes first, whatever the replica
        knows.
        """
        for needs_no_call in (True, False, None):
            for appended in (True, False):
                step = self.decide(needs_no_call, needs_barrier=True, appended=appended)
                self.assertIs(step, Step.BARRIER)

    def test_may_not_begin(self) -> None:
        """A worker that may not be the active one abandons the job, whatever it knows."""
        for needs_no_call in (True, False, None):
            for needs_barrier in (True, False):
                for appended in (True, False):
                    step = self.decide(
                        needs_no_call,
                        may_begin=False,
                        needs_barrier=needs_barrier,
                        appended=appended,
                    )
                    self.assertIs(step, Step.ABANDON)

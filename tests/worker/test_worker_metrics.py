"""The metrics of workers: only the active one counts, and a replay counts nothing."""

from __future__ import annotations

from prometheus_client.core import Metric
from twisted.trial.unittest import SynchronousTestCase

from rtprov.messaging.connection_metrics import connection_metrics
from rtprov.messaging.topology import PARKED_QUEUE, persistent
from rtprov.model import State
from rtprov.worker.end_reasons import END_REASONS, OTHER, end_reason
from rtprov.worker.metrics import worker_metrics
from rtprov.worker.service import WorkerService
from tests.support.system import System
from tests.support.system_case import SystemTestCase

Samples = dict[tuple[str, ...], float]


def samples(metrics: list[Metric]) -> Samples:
    """Return the values of all samples by name and label values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for metric in metrics
        for sample in metric.samples
    }


class WorkerMetricsCase(SystemTestCase):
    def make(self) -> System:
        return System(concurrency=2)

    def of(self, worker: WorkerService) -> Samples:
        return samples([*worker_metrics(worker), *connection_metrics([worker])])

    def now(self, number: int = 0) -> Samples:
        """Return the metrics of one of the workers."""
        return self.of(self.system.workers[number])


class Active(WorkerMetricsCase):
    def test_open_tasks(self) -> None:
        """Open tasks are told by state, with the age of the oldest and the time that all need."""
        for number in range(5):
            self.system.accepted(f"DEVICE{number}")
        self.system.network.advance(7)
        now = self.now()
        self.assertEqual(now["rtprov_tasks", "0of1", "waiting"], 3)
        self.assertEqual(now["rtprov_tasks", "0of1", "calling"], 2)
        self.assertEqual(now["rtprov_tasks", "0of1", "retrying"], 0)
        self.assertAlmostEqual(now["rtprov_task_oldest_seconds", "0of1"], 7, delta=0.5)
        # three rounds of 60 s, less what has passed
        self.assertAlmostEqual(now["rtprov_eta_seconds", "0of1"], 173, delta=2)
        self.assertEqual(now["rtprov_call_slots",], 2)
        self.assertEqual(now["rtprov_call_slots_used",], 2)
        self.assertEqual(now["rtprov_worker_active", "0of1"], 1)
        self.assertEqual(now["rtprov_broker_connected",], 1)
        self.assertGreater(now["rtprov_confirm_seconds_count",], 0)
        self.assertEqual(now["rtprov_equipment_state", "closed"], 1)
        self.assertEqual(now["rtprov_equipment_state", "open"], 0)
        self.assertIn(("rtprov_replay_seconds", "0of1"), now)
        self.system.network.advance(200)
        self.assertEqual(self.now()["rtprov_eta_seconds", "0of1"], 0)
        self.assertEqual(self.now()["rtprov_task_oldest_seconds", "0of1"], 0)

    def test_ends(self) -> None:
        """Each end is counted once, by state and reason, with the times of task and call."""
        for device in ("ABC123456", "FAIL123456"):
            self.system.accepted(device)
        self.system.network.advance(62)
        now = self.now()
        self.assertEqual(now["rtprov_tasks_ended_total", "completed", "answered_200"], 1)
        self.assertEqual(now["rtprov_tasks_ended_total", "failed", "answered_500"], 1)
        self.assertEqual(now["rtprov_task_seconds_count", "completed"], 1)
        self.assertAlmostEqual(now["rtprov_call_seconds_sum", "completed"], 60, delta=1)
        self.assertFalse([key for key in now if "ABC123456" in key or "FAIL123456" in key])

    def test_trouble(self) -> None:
        """While A cannot be reached, the breaker is told, calls count as unreachable, and no time
        is estimated.
        """
        del self.system.network.factories["a"]
        for number in range(20):
            self.system.accepted(f"DEVICE{number:02}")
        self.system.network.advance(10)
        now = self.now()
        self.assertEqual(now["rtprov_equipment_state", "open"], 1)
        self.assertNotIn(("rtprov_eta_seconds", "0of1"), now)
        self.assertGreater(now["rtprov_call_seconds_count", "unreachable"], 9)
        self.assertGreater(now["rtprov_tasks", "0of1", "retrying"], 0)


class Several(WorkerMetricsCase):
    def test_standby(self) -> None:
        """A standby counts no end, and tells nothing of tasks and of A. Neither does a replay."""
        self.system.start_worker()
        self.system.accepted("ABC123456")
        self.system.network.advance(62)
        self.system.start_worker()
        self.system.network.advance(5)
        self.assertEqual(self.now()["rtprov_tasks_ended_total", "completed", "answered_200"], 1)
        for number in (1, 2):
            now = self.now(number)
            self.assertEqual(now["rtprov_worker_active", "0of1"], 0)
            told = {key[0] for key in now}
            self.assertFalse(
                told
                & {
                    "rtprov_tasks_ended_total",
                    "rtprov_tasks",
                    "rtprov_task_seconds_count",
                    "rtprov_equipment_state",
                    "rtprov_call_slots",
                    "rtprov_parked_letters",
                },
                told,
            )

    def test_take_over(self) -> None:
        """When a standby takes over, it counts from then on, and the sum stays right."""
        self.system.start_worker()
        self.system.accepted("ABC123456")
        self.system.network.advance(62)
        stopped = self.system.workers[0].stopService()
        self.system.network.until(lambda: bool(stopped.called))
        before = self.system.workers[0]
        self.system.accepted("ABC123456")
        self.system.network.advance(62)
        key = ("rtprov_tasks_ended_total", "completed", "answered_200")
        self.assertEqual([self.of(before)[key], self.now(1)[key]], [1, 1])
        self.assertEqual(self.now(1)["rtprov_worker_active", "0of1"], 1)
        self.assertEqual(self.of(before)["rtprov_worker_active", "0of1"], 0)
        self.assertEqual(self.of(before)["rtprov_broker_connected",], 0)


class Parked(WorkerMetricsCase):
    def test_parked(self) -> None:
        """The active worker asks the broker how many letters are parked."""
        self.assertEqual(self.now()["rtprov_parked_letters",], 0)
        self.system.workers[0].publisher.publish(
            "", PARKED_QUEUE, b"{}", properties=persistent(), mandatory=True
        )
        self.system.network.advance(16)
        self.assertEqual(self.now()["rtprov_parked_letters",], 1)


class Reasons(SynchronousTestCase):
    def test_words(self) -> None:
        """Each reason of the journal has a word of the closed list."""
        for state, text, word in (
            (State.COMPLETED, "A answered 200", "answered_200"),
            (State.NOT_FOUND, "A answered 404", "answered_404"),
            (State.FAILED, "A answered 500", "answered_500"),
            (State.FAILED, "A answered HTTP 418 with code 418, which breaks", "broken_answer"),
            (State.FAILED, "A's answer is not HTTP", "broken_answer"),
            (State.FAILED, "A gave no answer within 90 s", "no_answer"),
            (State.FAILED, "out of patience: A cannot be reached", "out_of_patience"),
            (State.FAILED, "The body cannot be opened with its key", "damaged_order"),
            (State.FAILED, "dead-lettered: delivery_limit", "dead_lettered"),
            (State.FAILED, "the broker has lost its order", "lost_order"),
            (State.FAILED, "something of a later version", OTHER),
            (State.CANCELLED, "cancelled by a client", "cancelled"),
        ):
            self.assertEqual(end_reason(state, text), word)
            self.assertIn(word, END_REASONS)

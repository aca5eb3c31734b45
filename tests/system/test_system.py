"""A task from its POST to its final status, in the whole system in memory on a virtual clock."""

from __future__ import annotations

from tests.support.scale import slow
from tests.support.system import REQUEST, System
from tests.support.system_case import (
    COMPLETED,
    FAILED,
    NO_EQUIPMENT,
    NO_TASK,
    RUNNING,
    SystemTestCase,
)


class TheWayOfATask(SystemTestCase):
    def test_completed(self) -> None:
        """A task is accepted at once, runs for the minute that A takes, and is completed."""
        answer = self.system.post("ABC123456")
        self.assertEqual(answer.status, 200)
        task_id = answer.json["taskId"]
        self.assertEqual(answer.json, {"code": 200, "taskId": task_id})
        self.assertEqual(
            answer.header("Location"), f"/api/v1/equipment/cpe/ABC123456/task/{task_id}"
        )
        running = self.system.get("ABC123456", task_id)
        self.assertEqual((running.status, running.json), RUNNING)
        self.assertIsNotNone(running.header("Retry-After"))
        self.system.network.advance(61)
        self.assertEqual(self.status("ABC123456", task_id), COMPLETED)
        self.assertEqual(self.status("ABC123456", task_id), COMPLETED)

    def test_a_fails(self) -> None:
        """If A answers 500, the task's final status is 500."""
        self.assertEqual(self.final_status("FAIL123456"), FAILED)

    def test_a_does_not_know_the_equipment(self) -> None:
        """If A answers 404, the task's final status is the equipment's 404."""
        self.assertEqual(self.final_status("NOTFOUND123"), NO_EQUIPMENT)

    def test_a_answers_garbage(self) -> None:
        """If A's answer is not valid, the task's final status is 500."""
        self.assertEqual(self.final_status("GARBAGE123"), FAILED)

    def test_a_hangs(self) -> None:
        """If A does not answer within max(timeoutInSeconds, 60) + 30 s, the task's final status is
        500.
        """
        self.assertEqual(self.final_status("HANG123456", within_s=91.0), FAILED)

    def test_a_hangs_and_the_request_is_patient(self) -> None:
        """With a longer timeoutInSeconds, the worker waits for that time and 30 s more."""
        body = {**REQUEST, "timeoutInSeconds": 200}
        self.assertEqual(self.final_status("HANG123456", body, within_s=231.0), FAILED)

    def test_a_drops_every_connection(self) -> None:
        """A connection that A closes without an answer is an outage: the task is retried until its
        patience is over, and then fails.
        """
        task_id = self.system.accepted("DROP123456")
        self.system.network.advance(590)
        self.assertEqual(self.status("DROP123456", task_id), RUNNING)
        self.system.network.advance(140)
        self.assertEqual(self.status("DROP123456", task_id), FAILED)

    def test_a_is_busy_twice(self) -> None:
        """A 503 with Retry-After is retried, and the task is completed."""
        task_id = self.system.accepted("BUSY123456")
        self.system.network.advance(130)
        self.assertEqual(self.status("BUSY123456", task_id), RUNNING)
        self.system.network.advance(60)
        self.assertEqual(self.status("BUSY123456", task_id), COMPLETED)

    def test_status_is_asked_for_the_wrong_things(self) -> None:
        """Unknown tasks, another equipment's task and malformed ids each give their 404."""
        task_id = self.system.accepted("ABC123456")
        self.assertEqual(self.status("OTHER12345", task_id), NO_TASK)
        self.assertEqual(self.status("ABC123456", "0" * 32), NO_TASK)
        self.assertEqual(self.status("ABC123456", "no-task"), NO_TASK)
        self.assertEqual(self.status("ABC", task_id), NO_EQUIPMENT)

    def test_nothing_secret_is_logged(self) -> None:
        """No log event contains the password."""
        self.final_status("ABC123456")
        self.assertTrue(self.events)
        self.assertEqual([event for event in self.events if "s3cr3t" in event], [])


class Races(SystemTestCase):
    def test_get_right_behind_its_post(self) -> None:
        """A GET sent as soon as its POST is answered never says that the task is not found, on any
        front end.
        """
        self.system.start_frontend("b2")
        self.system.network.advance(1)
        for number in range(50):
            equipment_id = f"RACE{number:06}"
            task_id = self.system.accepted(equipment_id)
            self.assertEqual(self.status(equipment_id, task_id, "b2"), RUNNING)

    def test_fifty_devices_at_once(self) -> None:
        """Fifty devices are configured in parallel: all tasks are completed after one minute."""
        posts = [
            self.system.send("POST", f"/api/v1/equipment/cpe/DEVICE{number:04}", REQUEST)
            for number in range(50)
        ]
        self.system.network.until(lambda: all(post.called for post in posts))
        task_ids = [self.successResultOf(post).json["taskId"] for post in posts]
        self.assertEqual(len(set(task_ids)), 50)
        self.system.network.advance(61)
        for number, task_id in enumerate(task_ids):
            self.assertEqual(self.status(f"DEVICE{number:04}", task_id), COMPLETED)

    def test_tasks_of_one_device_run_one_at_a_time(self) -> None:
        """Three tasks for one device take three minutes, in the order of their POSTs."""
        task_ids = [self.system.accepted("ABC123456") for _ in range(3)]
        seen = []
        for _ in range(3):
            self.system.network.advance(60.5)
            seen.append([self.status("ABC123456", task_id) == COMPLETED for task_id in task_ids])
        self.assertEqual(seen, [[True, False, False], [True, True, False], [True, True, True]])


class Concurrency(SystemTestCase):
    def make(self) -> System:
        return System(concurrency=10)

    def test_calls_under_way_are_limited(self) -> None:
        """With 10 slots, 25 tasks take three minutes."""
        tasks = {
            f"DEVICE{number:04}": self.system.accepted(f"DEVICE{number:04}") for number in range(25)
        }
        done = []
        for _ in range(3):
            self.system.network.advance(60.5)
            done.append(
                sum(
                    self.status(equipment_id, task_id) == COMPLETED
                    for equipment_id, task_id in tasks.items()
                )
            )
        self.assertEqual(done, [10, 20, 25])

    def test_waiting_tasks_of_one_device_hold_no_slot(self) -> None:
        """Twelve tasks of one device leave nine slots to other devices."""
        for _ in range(12):
            self.system.accepted("SAME123456")
        others = {
            f"DEVICE{number:04}": self.system.accepted(f"DEVICE{number:04}") for number in range(9)
        }
        self.system.network.advance(61)
        for equipment_id, task_id in others.items():
            self.assertEqual(self.status(equipment_id, task_id), COMPLETED)


class Shards(SystemTestCase):
    def make(self) -> System:
        return System(shards=4)

    def test_every_shard_serves(self) -> None:
        """With four shards, tasks of many devices are all completed."""
        tasks = {
            f"DEVICE{number:04}": self.system.accepted(f"DEVICE{number:04}") for number in range(20)
        }
        self.system.network.advance(61)
        for equipment_id, task_id in tasks.items():
            self.assertEqual(self.status(equipment_id, task_id), COMPLETED)


class Outages(SystemTestCase):
    """What clients see while a part of the system is down."""

    def calls(self) -> int:
        return len([end for name, end in self.system.network.connections if name == "a"])

    def test_no_worker(self) -> None:
        """Without a worker a POST is accepted and its GET is a 503. When a worker starts, it
        completes the task.
        """
        worker = self.system.workers.pop()
        stopped = worker.stopService()
        self.system.network.until(lambda: bool(stopped.called))
        task_id = self.system.accepted("ABC123456")
        answer = self.system.get("ABC123456", task_id)
        self.assertEqual(answer.status, 503)
        self.assertEqual(answer.json["code"], 503)
        self.assertIsNotNone(answer.header("Retry-After"))
        self.system.start_worker()
        self.system.network.advance(62)
        self.assertEqual(self.status("ABC123456", task_id), COMPLETED)

    def test_broker_connections_lost_while_a_works(self) -> None:
        """If all broker connections break during a call to A, the call continues, and the worker
        does not repeat it.
        """
        task_id = self.system.accepted("ABC123456")
        self.system.network.advance(30)
        self.assertGreater(self.system.network.cut("broker"), 1)
        self.system.network.advance(31)
        self.assertEqual(self.status("ABC123456", task_id), COMPLETED)
        self.assertEqual(self.system.stub.calls, 1)

    def test_broker_away(self) -> None:
        """While the broker cannot be reached, POST and GET are 503. When it is back, the task has
        its status.
        """
        task_id = self.system.accepted("ABC123456")
        factory = self.system.network.factories.pop("broker")
        self.system.network.cut("broker")
        self.system.network.advance(1)
        answer = self.system.post("ABC123456")
        self.assertEqual((answer.status, answer.json["code"]), (503, 503))
        self.assertEqual(self.system.get("ABC123456", task_id).status, 503)
        self.system.network.advance(120)
        self.system.network.factories["broker"] = factory
        self.system.network.advance(10)
        self.assertEqual(self.status("ABC123456", task_id), COMPLETED)
        self.assertEqual(self.system.stub.calls, 1)

    def test_a_is_down_for_a_while(self) -> None:
        """While A refuses connections the task waits. When A is back, the task is completed."""
        factory = self.system.network.factories.pop("a")
        task_id = self.system.accepted("ABC123456")
        self.system.network.advance(100)
        self.assertEqual(self.status("ABC123456", task_id), RUNNING)
        self.system.network.factories["a"] = factory
        self.system.network.advance(125)
        self.assertEqual(self.status("ABC123456", task_id), COMPLETED)

    def test_standby(self) -> None:
        """A second worker on a shard is the standby. It takes over the tasks when the first one's
        connection is lost for good.
        """
        task_ids = [self.system.accepted("ABC123456"), self.system.accepted("ABC123456")]
        self.system.start_worker()
        self.system.network.advance(10)
        first, second = self.system.workers
        self.assertEqual((first.workers[0].held, second.workers[0].held), (2, 0))
        stopped = first.connection.stopService()
        self.system.network.advance(1)
        self.assertTrue(stopped.called)
        self.assertEqual(second.workers[0].held, 2)
        self.system.network.advance(121)
        self.assertEqual(
            [self.status("ABC123456", task_id) for task_id in task_ids], [COMPLETED, COMPLETED]
        )

    def test_drain(self) -> None:
        """A stopping worker lets its running call end, and hands all other tasks to the standby."""
        task_ids = [self.system.accepted("ABC123456"), self.system.accepted("ABC123456")]
        self.system.start_worker()
        self.system.network.advance(10)
        first = self.system.workers.pop(0)
        stopped = first.stopService()
        self.system.network.advance(40)
        self.assertFalse(stopped.called)
        self.system.network.advance(12)
        self.assertTrue(stopped.called)
        self.assertEqual(self.status("ABC123456", task_ids[0]), COMPLETED)
        self.system.network.advance(61)
        self.assertEqual(self.status("ABC123456", task_ids[1]), COMPLETED)
        self.assertEqual(self.system.stub.calls, 2)


class Renewal(SystemTestCase):
    @slow
    def test_a_delivery_held_for_long_is_renewed(self) -> None:
        """Tasks that wait for their device for more than 20 minutes are returned to the broker
        once. They still run in order, each once.
        """
        task_ids = [self.system.accepted("ABC123456") for _ in range(30)]
        for done in range(1, 31):
            self.system.network.advance(60.1)
            if done in (10, 25, 30):
                seen = [self.status("ABC123456", task_id) == COMPLETED for task_id in task_ids]
                self.assertEqual(seen, [True] * done + [False] * (30 - done))
        self.assertEqual(self.system.stub.calls, 30)


class RunningStatus(SystemTestCase):
    def make(self) -> System:
        return System(running_status=204)

    def test_no_content(self) -> None:
        """With --running-status 204 a running task is an HTTP 204 without a body."""
        task_id = self.system.accepted("ABC123456")
        answer = self.system.get("ABC123456", task_id)
        self.assertEqual((answer.status, answer.body), (204, b""))

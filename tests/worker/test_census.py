"""Tasks whose message was lost: each is put back into the queue, called once, and in its turn."""

from __future__ import annotations

from rtprov.messaging.topology import (
    DEAD_EXCHANGE,
    PARKED_QUEUE,
    STATUS_EXCHANGE,
    TASKS_EXCHANGE,
)
from tests.support.census_case import DEVICES, DONE, FAILED, RUNNING, SHARD, CensusTestCase
from tests.support.scale import slow
from tests.support.system import REQUEST

PATH = "/api/v1/equipment/cpe/DEVICE0000"


class WhileAWorkerRuns(CensusTestCase):
    def test_purged_at_each_moment(self) -> None:
        """A purge loses no task, whether the message is in the queue, with the worker, or waits for
        an earlier task of its device.
        """
        tasks = self.accepted(DEVICES[:3] * 4)
        for _ in range(4):
            self.system.network.advance(7.0)
            self.operator("purge")
        self.assert_done(tasks)

    def test_deleted_at_each_moment(self) -> None:
        """A deleted queue is declared again and gets its tasks back. Running calls are not
        repeated.
        """
        tasks = self.accepted(DEVICES)
        for _ in range(4):
            self.system.network.advance(7.0)
            self.operator("delete")
        self.assert_done(tasks)

    def test_unbound(self) -> None:
        """Tasks that reach only the journal are completed. The queue is bound again."""
        self.operator("unbind")
        tasks = self.accepted(DEVICES[:2])
        self.assert_done(tasks)
        tasks += self.accepted(DEVICES[2:3])
        self.system.network.advance(11.0)
        self.assertEqual(self.codes(tasks[-1:]), [DONE])

    def test_in_order(self) -> None:
        """Lost tasks of a device are called before tasks that were requested later."""
        lost = self.accepted(DEVICES[:1] * 9)
        self.operator("purge")
        later = self.accepted(DEVICES[:1] * 3)
        for done in range(1, 13):
            self.system.network.until(lambda done=done: self.system.stub.calls == done, 300.0)  # type: ignore[misc] # mypy cannot infer the default's type
            self.system.network.advance(10.1)
            self.assertEqual(self.codes(lost + later), [DONE] * done + [RUNNING] * (12 - done))

    @slow
    def test_nothing_is_wrong(self) -> None:
        """An idle system publishes no markers. Markers do not disturb a system that is working."""
        tasks = self.accepted(DEVICES)
        self.system.start_worker()  # a standby
        self.assert_done(tasks)
        published = self.virtual_host.queues[SHARD.work]._next_position
        self.system.network.advance(900.0)
        self.assertEqual(self.virtual_host.queues[SHARD.work]._next_position, published)

    def test_a_standby(self) -> None:
        """A standby holds none of the open tasks. It publishes no markers while it sees that the
        active worker is working.
        """
        self.system.start_worker()
        self.system.network.advance(1.0)
        published = self.virtual_host.queues[SHARD.work]._next_position
        for _ in range(20):
            self.accepted(DEVICES[:2])
            self.system.network.advance(11.0)
        self.assertEqual(self.virtual_host.queues[SHARD.work]._next_position - published, 40)

    def test_dead_letters_deleted(self) -> None:
        """Deleted queues of dead and parked letters are declared again. Tasks are completed
        meanwhile.
        """
        for queue in (SHARD.dead, PARKED_QUEUE):
            self.operator("delete", queue)
        self.assert_done(self.accepted(DEVICES[:2]))
        self.assertIn(SHARD.dead, self.virtual_host.queues)


class WhileNoWorkerLives(CensusTestCase):
    def test_the_queue_is_deleted(self) -> None:
        """A POST is answered 200 although the work queue is missing. Its task is completed when a
        worker starts.
        """
        self.stop_worker()
        self.operator("delete")
        tasks = self.accepted(DEVICES[:2])
        self.system.start_worker()
        self.assert_done(tasks, within_s=20.0)

    def test_the_queue_is_purged(self) -> None:
        """A purged backlog that is larger than the worker's window is completed."""
        self.stop_worker()
        tasks = self.accepted(DEVICES)
        self.operator("purge")
        self.system.start_worker()
        self.assert_done(tasks)

    def test_the_journal_is_deleted(self) -> None:
        """Tasks that are still in the work queue are written to the new journal and completed."""
        self.stop_worker()
        tasks = self.accepted(DEVICES[:4])
        self.operator("delete", SHARD.journal)
        self.system.start_worker()
        self.assert_done(tasks)
        self.stop_worker()
        self.system.start_worker()
        self.system.network.advance(1.0)
        self.assertEqual(set(self.codes(tasks)), {DONE})

    def test_all_is_deleted(self) -> None:
        """If both queue and journal are missing, a POST is answered 503. The front end declares
        both again, and the next POST is answered 200.
        """
        self.stop_worker()
        self.operator("delete")
        self.operator("delete", SHARD.journal)
        self.assertEqual(self.system.post(DEVICES[0]).status, 503)
        self.system.network.advance(1.0)
        tasks = self.accepted(DEVICES[:1])
        self.system.start_worker()
        self.assert_done(tasks)

    def test_the_exchanges_are_deleted(self) -> None:
        """If the exchanges are missing, a POST is answered 503, and the next one 200."""
        for exchange in (TASKS_EXCHANGE, DEAD_EXCHANGE, STATUS_EXCHANGE):
            self.virtual_host.routing.delete(exchange, if_unused=False)
        self.system.broker.after_work()
        self.assertEqual(self.system.post(DEVICES[0]).status, 503)
        self.system.network.advance(10.0)
        tasks = self.accepted(DEVICES[:1])
        self.system.start_worker()
        self.assert_done(tasks)


class TheJournalIsDeleted(CensusTestCase):
    def test_while_a_worker_runs(self) -> None:
        """A worker writes all that it knows to the new journal: ended tasks, open tasks, and those
        orders that it has.
        """
        ended = self.accepted(DEVICES[:2])
        self.system.network.advance(11.0)
        tasks = self.accepted(DEVICES[:3] * 3)
        self.operator("delete", SHARD.journal)
        self.system.network.advance(5.0)
        self.assert_done([*ended, *tasks])
        self.stop_worker()
        self.system.start_worker()
        self.system.network.advance(1.0)
        self.assertEqual(set(self.codes([*ended, *tasks])), {DONE})

    def test_with_the_queue(self) -> None:
        """A task that is in neither queue nor journal, and that no worker holds, has failed. Its
        status says so.
        """
        tasks = self.accepted(DEVICES)
        self.operator("purge")
        self.operator("delete", SHARD.journal)
        self.system.network.advance(300.0)
        codes = self.codes(tasks)
        self.assertEqual(set(codes), {DONE, FAILED})
        self.assertGreaterEqual(codes.count(DONE), 3)
        self.assertEqual(self.system.stub.calls, codes.count(DONE))

    def test_a_repeated_post(self) -> None:
        """A POST that repeats a key is answered 503 until the new journal has its task, and then
        200.
        """
        key = {"Idempotency-Key": "order-1"}
        task_id = self.system.request("POST", PATH, REQUEST, headers=key).json["taskId"]
        self.system.network.advance(11.0)
        self.operator("delete", SHARD.journal)
        for _ in range(2000):
            self.system.network.advance(0.01)
            answer = self.system.request("POST", PATH, REQUEST, headers=key)
            if answer.status == 200:
                break
        self.assertEqual(answer.json["taskId"], task_id)
        self.assertTrue(any(task_id.encode() in body for body in self.journal()))
        self.assertEqual(self.system.stub.calls, 1)

    def journal(self) -> list[bytes]:
        """Return the bodies of the messages in the journal."""
        stream = self.virtual_host.queues[SHARD.journal]
        return [record.message.body for record in stream._tail]

"""An operator's actions on the broker's queues, in some seeds: purging, deleting and unbinding
them.
"""

from __future__ import annotations

import random

from attrs import define, field

from rtprov.broker.engine.virtual_host import VirtualHost
from rtprov.messaging.topology import PARKED_QUEUE, TASKS_EXCHANGE, Shard
from tests.simulation.world import Broker, World

HOW_OFTEN = 0.35  # Fraction of the seeds.


@define(eq=False)
class Operator:
    """Acts at random times until `until`. It has its own random numbers, so that it does not change
    the faults of a seed, nor the seeds without an operator.
    """

    world: World
    rng: random.Random
    until: float
    mean_pause_s: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.mean_pause_s = self.rng.choice([3.0, 10.0, 30.0])
        if self.rng.random() < HOW_OFTEN:
            self._later()

    def _later(self) -> None:
        pause_s = self.rng.expovariate(1.0 / self.mean_pause_s)
        if self.world.clock.now + pause_s < self.until:
            self.world.clock.call_later(None, pause_s, self._act_on)

    def _act_on(self) -> None:
        broker = self.world.processes.get("broker")
        act = self.rng.choice([self.purge, self.delete, self.unbind])
        shard = Shard(self.rng.randrange(self.world.setup.shards), self.world.setup.shards)
        if isinstance(broker, Broker):
            act(broker.real.virtual_host, shard)
            broker.real.after_work()
        self._later()

    def purge(self, host: VirtualHost, shard: Shard) -> None:
        """Purge a work queue: the tasks that are not handed out are lost."""
        queue = host.queues.get(shard.work)
        if queue is not None:
            self.world.trace.note(f"{shard.work} is purged of {queue.purge()} messages")

    def delete(self, host: VirtualHost, shard: Shard) -> None:
        """Delete a queue of tasks or of dead letters, together with its unacknowledged messages."""
        queue = host.queues.get(self.rng.choice([shard.work, shard.work, shard.dead, PARKED_QUEUE]))
        if queue is not None:
            self.world.trace.note(
                f"{queue.name} is deleted with {host.delete_queue(queue)} messages"
            )
            if queue.name == shard.work:
                self.world.checks.on_work_queue_deleted()

    def unbind(self, host: VirtualHost, shard: Shard) -> None:
        """Unbind a work queue: it gets no tasks any more."""
        self.world.trace.note(f"{shard.work} is unbound")
        host.unbind(shard.work, TASKS_EXCHANGE, shard.requested_key, None)

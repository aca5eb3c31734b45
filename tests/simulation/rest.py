"""Checks for the end of a run: what is left in the roles, on the disk and on the network."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from rtprov.frontend.service import FrontendService
from rtprov.messaging.topology import PARKED_QUEUE
from rtprov.worker.service import WorkerService
from tests.simulation.world import Broker, Service, World


def at_rest(world: World, *, running: bool) -> None:
    """Check that no table holds more than at its start and, unless roles are `running`, that no
    timer and no connection is left.
    """
    for name, process in world.processes.items():
        for what, size in _sizes(process):
            world.checks.expect(not size, f"{name}: {what} holds {size}")
    for name, queue_id in world.disk.queue_ids().items():
        kept = "journal" in name or name == PARKED_QUEUE
        world.checks.expect(
            kept or not world.disk.messages(queue_id),
            f"disk: {name} holds {world.disk.messages(queue_id)}",
        )
        # A front end that the change overtakes declares the old queues anew. They stay empty,
        # because it compares the number of shards before it binds them.
        other = name.count("of") == 1 and not name.endswith(f"of{world.shards}")
        world.checks.expect(
            not (other and world.disk.messages(queue_id)),
            f"disk: {name} of another number of shards holds messages",
        )
    if not running:
        world.checks.expect(not world.processes, f"still running: {sorted(world.processes)}")
        calls = [f"{role.name}: {call}" for role, call in world.clock.pending() if role is not None]
        world.checks.expect(not calls, f"timers are left: {calls[:5]}")
        links = [str(link) for link in world.network.open_links()]
        world.checks.expect(not links, f"connections are left: {links[:5]}")


def jobs(world: World) -> int:
    """Return how many tasks the workers hold."""
    workers = [
        process.service for process in world.processes.values() if isinstance(process, Service)
    ]
    return sum(
        each.held
        for worker in workers
        if isinstance(worker, WorkerService)
        for each in worker.workers
    )


def no_marker(world: World) -> bool:
    """Return whether workers have no unconfirmed and no undelivered messages, and wait for no
    barrier.

    A standby worker publishes a marker now and then, to look for lost tasks.
    """
    workers = [
        process.service for process in world.processes.values() if isinstance(process, Service)
    ]
    for process in workers:
        if isinstance(process, WorkerService):
            barriers = [size for what, size in _worker(process) if what == "barriers"]
            if process._publisher.unconfirmed or any(barriers):
                return False
    return not any(
        world.disk.messages(queue_id)
        for name, queue_id in world.disk.queue_ids().items()
        if "work" in name
    )


def stop_looking(world: World) -> None:
    """Stop the front ends' regular questions for workers and their keys until they connect again.
    Otherwise a run would never come to rest.
    """
    for process in world.processes.values():
        if isinstance(process, Service) and isinstance(process.service, FrontendService):
            statuses: Any = process.service.frontend._statuses
            statuses.detach()
            process.service.keys.detach()


def connected(world: World) -> bool:
    """Return whether all front ends and workers are connected to the broker."""
    return all(
        process.service.connection.connected
        for process in world.processes.values()
        if isinstance(process, Service)
    )


def _sizes(process: object) -> list[tuple[str, int]]:
    if isinstance(process, Broker):
        return _broker(process)
    if isinstance(process, Service) and isinstance(process.service, FrontendService):
        return _frontend(process.service)
    if isinstance(process, Service) and isinstance(process.service, WorkerService):
        return _worker(process.service)
    return []


def _broker(broker: Broker) -> list[tuple[str, int]]:
    queues = [
        queue
        for queue in broker.real.virtual_host.queues.values()
        if queue.kind != "stream" and queue.name != PARKED_QUEUE
    ]
    sizes = [(queue.name, queue.message_count) for queue in queues]
    for number, connection in enumerate(broker.real.connections):
        for channel in connection.channels:
            for each in channel.consuming.unsettled.values():
                if each.queue.kind != "stream":
                    sizes.append(
                        (f"what connection {number} has not settled of {each.queue.name}", 1)
                    )
    return sizes


def _frontend(service: FrontendService) -> list[tuple[str, int]]:
    statuses: Any = service.frontend._statuses
    tasks: Any = service.frontend._submission._tasks
    return [
        ("open questions", statuses._pending),
        ("status requests", len(statuses._requests)),
        ("requests", len(statuses._rpc._requests)),
        ("unconfirmed", len(tasks._publisher._unconfirmed)),
    ]


def _worker(service: WorkerService) -> list[tuple[str, int]]:
    sizes = [
        ("unconfirmed", len(service._publisher._unconfirmed)),
        ("calls to A", service._settings.concurrency - service._call_limiter._free),
    ]
    for worker in service.workers:
        journal: Any = worker._journal
        sizes += [
            ("jobs", worker.held),
            ("open tasks", len(worker._open_tasks)),
            ("lanes", len(worker._lanes)),
            ("waiting appends", len(journal._appender.waiting)),
            ("barriers", len(journal._waiting) + (journal._pending_marker is not None)),
        ]
    for store in service.stores:
        store.expire(float("inf"))
        indexes = store.indexes
        indexed: list[Sized] = [
            indexes.accepted,
            indexes.mixed,
            indexes.groups,
            *indexes.ended.values(),
        ]
        left = len(store) + sum(map(len, indexed))
        sizes.append(("the store, when all has expired,", left))
    return sizes

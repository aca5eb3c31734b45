"""``twistd rtprov-worker``: the worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.application.service import IService
from twisted.logger import Logger

from rtprov.equipment.client import HttpEquipment
from rtprov.errors import ConfigurationError
from rtprov.http.health import Readiness
from rtprov.messaging.environment import Environment
from rtprov.messaging.topology import JOURNAL_MAX_AGE_S, Shard
from rtprov.security.files import is_there
from rtprov.security.key_file import KeyFile
from rtprov.security.tls_client import VerifiedServers
from rtprov.tap import options as opt
from rtprov.tap.broker_file import BrokerRoute
from rtprov.tap.client_connections import agent_for
from rtprov.tap.command import Command
from rtprov.tap.identity import ca_file, identity_files, key_file
from rtprov.tap.listening import health_if
from rtprov.tap.open_files import open_files, room_for
from rtprov.tap.process import clock, environment
from rtprov.tap.reloading import Renewal, warn_of_expiry
from rtprov.tap.sharded import Sharded
from rtprov.worker.service import WorkerService
from rtprov.worker.settings import WorkerSettings

_log = Logger()
MAX_SHARDS = 400  # each uses five of the 2047 channels that a connection may have


class Options(opt.CommandOptions):
    longdesc = (
        "Runs a worker: calls service A for each task, and answers the front ends' requests for the"
        " status of tasks over AMQP."
    )
    command = "rtprov-worker"
    options = (
        opt.BROKER,
        opt.BROKER_FILE,
        opt.EQUIPMENT_URL,
        opt.CONCURRENCY,
        opt.SHARDS,
        opt.SHARD,
        opt.RETENTION,
        opt.PATIENCE,
        opt.DRAIN,
        opt.HEALTH_LISTEN,
        opt.CERTS,
        opt.CERTIFICATE,
        opt.PRIVATE_KEY,
        opt.CA,
        opt.SEAL_KEYS,
    )

    def check(self) -> None:
        self.exclude("broker", "broker-file")
        if self["shards"] is not None:
            check_shards(self["shard"], self["shards"])


def check_shards(chosen: Sequence[int], count: int) -> None:
    """Check the values of ``--shard`` against the number of shards.

    Raises `ConfigurationError` if a shard does not exist, or if they are too many for one worker.
    """
    for shard in chosen:
        if shard >= count:
            raise ConfigurationError(
                f"--shard: there is no shard {shard}: the {count} shards are numbered from 0"
            )
    if len(set(chosen) or range(count)) > MAX_SHARDS:
        raise ConfigurationError(
            f"--shard: one worker can serve at most {MAX_SHARDS} shards; divide the {count} shards"
            " among several workers"
        )


def shards_of(chosen: Sequence[int], count: int) -> list[Shard]:
    """Return the shards that a worker serves: those of `chosen` that exist, or all if none does."""
    return [Shard(index, count) for index in sorted(set(chosen)) if index < count] or [
        Shard(index, count) for index in range(count)
    ]


def make_policy(options: dict[str, Any]) -> VerifiedServers:
    """Load the CA for service A and the broker, and the worker's client certificate if there is
    one.

    Raises `ConfigurationError`.
    """
    certificate, key = (options.get("certificate"), options.get("private-key"))
    if certificate is not None or key is not None or is_there(options["certs"] / "worker.pem"):
        certificate, key = identity_files(options, "worker")
    policy = VerifiedServers(ca_file(options), certificate, key)
    warn_of_expiry(*policy.certificates)
    return policy


def room_for_calls(concurrency: int, files_per_call: int) -> int:
    """Return how many calls to A may be under way at the same time: `concurrency`, or what the
    limit of open files allows.
    """
    most = room_for(concurrency * files_per_call) // files_per_call or 1
    if most < concurrency:
        _log.warn(
            "making at most {most} calls to A at the same time, not the {wanted} of --concurrency:"
            " only {files} open files are allowed (ulimit -n)",
            most=most,
            wanted=concurrency,
            files=open_files(),
        )
    return most


def make_worker(
    options: dict[str, Any],
    policy: VerifiedServers,
    keys: KeyFile,
    env: Environment,
    equipment_url: str,
    shards: list[Shard],
    concurrency: int,
    *,
    journal_age_s: float = JOURNAL_MAX_AGE_S,
    shards_given: bool = True,
) -> WorkerService:
    """Return the worker that the options describe.

    `concurrency` is the largest number of calls to A at the same time. `journal_age_s` is how long
    the broker keeps journals, in seconds. `shards_given` says that the operator set the number of
    shards. Raises `ConfigurationError`.
    """
    settings = WorkerSettings(
        shards=shards,
        concurrency=concurrency,
        retention_s=options["retention"],
        patience_s=options["patience"],
        drain_s=options["drain"],
        journal_age_s=journal_age_s,
        shards_given=shards_given,
    )
    agent = agent_for(equipment_url, policy, concurrency)
    equipment = HttpEquipment(
        agent=agent, base_url=equipment_url, clock=env.clock, wall_clock=env.wall_clock
    )
    return WorkerService(env, settings, equipment=equipment, sealer=keys.sealer, key_source=keys)


def makeService(options: Options) -> IService:
    route = BrokerRoute(options)
    given: int | None = options["shards"]
    policy, keys = make_policy(options), key_file(options)
    concurrency = room_for_calls(options["concurrency"], 1)
    command = Command(
        options, Renewal(policy, clock=clock), Renewal(keys, clock=clock, what="sealing keys")
    )

    def make(count: int) -> WorkerService:
        env, shards = environment(route.endpoint, route.url), shards_of(options["shard"], count)
        worker = make_worker(
            options,
            policy,
            keys,
            env,
            options["equipment-url"],
            shards,
            concurrency,
            shards_given=given is not None,
        )
        worker.connection.on_contradiction = command.fail
        worker.shard_count.on_agreed = lambda: check_shards(options["shard"], count)
        return worker

    worker = Sharded(make, given, clock)

    async def probe() -> None:
        await worker.role.readiness.check()

    for each in (
        *route.follow(lambda: worker.role.connection),
        *health_if(options, Readiness(probe, clock)),
        worker,
    ):
        each.setServiceParent(command)
    return cast("IService", command)

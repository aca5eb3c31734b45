"""``twistd rtprov-worker``: the worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import attrs
from twisted.application.service import IService
from twisted.logger import Logger

from rtprov.amqp.client.url import BrokerUrl
from rtprov.equipment.client import HttpEquipment
from rtprov.errors import ConfigurationError
from rtprov.history.history import History
from rtprov.messaging.connection_metrics import connection_metrics
from rtprov.messaging.environment import Environment
from rtprov.messaging.topology import Shard
from rtprov.readiness import Readiness
from rtprov.security.files import is_there
from rtprov.security.key_file import KeyFile
from rtprov.security.tls_client import VerifiedServers
from rtprov.tap import options as opt
from rtprov.tap.broker_file import BrokerRoute, ClientFiles, client_files
from rtprov.tap.client_connections import agent_for
from rtprov.tap.command import Command
from rtprov.tap.gc_tuning import freeze_once_connected
from rtprov.tap.history import make_history
from rtprov.tap.identity import ca_file, identity_files, key_file
from rtprov.tap.listening import health_if
from rtprov.tap.open_files import open_files, room_for
from rtprov.tap.option_values import DescribedEndpoint
from rtprov.tap.process import clock, environment, wall_clock
from rtprov.tap.reloading import Renewal, warn_of_expiry
from rtprov.tap.service_manager import Condition
from rtprov.tap.sharded import Sharded
from rtprov.tracing.spans import Spans
from rtprov.worker.metrics import worker_metrics
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
        opt.MAX_CALLS_PER_SECOND,
        opt.SHARDS,
        opt.SHARD,
        opt.RETENTION,
        opt.HISTORY,
        opt.HISTORY_DAYS,
        opt.PATIENCE,
        opt.DRAIN,
        opt.BATCH_EVENTS,
        opt.HEALTH_LISTEN,
        opt.LOG_FORMAT,
        opt.CERTS,
        opt.CERTIFICATE,
        opt.PRIVATE_KEY,
        opt.CA,
        opt.AMQP_CERTIFICATE,
        opt.AMQP_PRIVATE_KEY,
        opt.SEAL_KEYS,
        opt.NO_GC_TUNING,
    )

    def check(self) -> None:
        self.exclude("broker", "broker-file")
        if self["shards"] is not None:
            check_shards(self["shard"], self["shards"])


@attrs.frozen
class Settings(opt.CommandSettings):
    """The values of `Options`; times are in seconds."""

    broker: BrokerUrl
    broker_file: Path | None
    equipment_url: str
    concurrency: int
    max_calls_per_second: float | None
    shards: int | None
    shard: Sequence[int]
    retention: float
    history: Path | None
    history_days: int
    patience: float
    drain: float
    batch_events: bool
    health_listen: DescribedEndpoint | None
    log_format: str
    certs: Path
    certificate: Path | None
    private_key: Path | None
    ca: Path | None
    amqp_certificate: Path | None
    amqp_private_key: Path | None
    seal_keys: Path | None

    @property
    def amqp_client(self) -> ClientFiles | None:
        """The files of the client certificate for the broker. Raises `ConfigurationError`."""
        return client_files(self.amqp_certificate, self.amqp_private_key)


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


def make_verified_servers(
    certs: Path,
    *,
    certificate: Path | None = None,
    private_key: Path | None = None,
    ca: Path | None = None,
) -> VerifiedServers:
    """Load the CA for service A and the broker, and the worker's client certificate if there is
    one.

    The arguments are those of `identity_files` and `ca_file`. Raises `ConfigurationError`.
    """
    if certificate is not None or private_key is not None or is_there(certs / "worker.pem"):
        certificate, private_key = identity_files(
            "worker", certs=certs, certificate=certificate, private_key=private_key
        )
    policy = VerifiedServers(ca_file(certs, ca), certificate, private_key, wall_clock=wall_clock)
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
    settings: WorkerSettings,
    policy: VerifiedServers,
    keys: KeyFile,
    env: Environment,
    equipment_url: str,
    spans: Spans,
    history: History | None = None,
) -> WorkerService:
    """Return the worker that calls service A at `equipment_url`. Raises `ConfigurationError`."""
    agent = agent_for(equipment_url, policy, settings.concurrency, env.clock)
    equipment = HttpEquipment(
        agent=agent, base_url=equipment_url, clock=env.clock, wall_clock=env.wall_clock
    )
    return WorkerService(
        env,
        settings,
        equipment=equipment,
        sealer=keys.sealer,
        key_source=keys,
        spans=spans,
        history=history,
    )


def makeService(options: Options) -> IService:
    settings = Settings.from_options(options)
    certs, ca = settings.certs, settings.ca
    route = BrokerRoute(
        settings.broker,
        settings.broker_file,
        certs=certs,
        ca=ca,
        clock=clock,
        client=settings.amqp_client,
    )
    policy = make_verified_servers(
        certs, certificate=settings.certificate, private_key=settings.private_key, ca=ca
    )
    keys = key_file(certs, settings.seal_keys)
    concurrency = room_for_calls(settings.concurrency, 1)
    command = Command(
        options, Renewal(policy, clock=clock), Renewal(keys, clock=clock, what="sealing keys")
    )

    spans = command.trace()
    history = make_history(settings.history, settings.history_days)

    def make(count: int) -> WorkerService:
        worker_settings = WorkerSettings(
            shards=shards_of(settings.shard, count),
            concurrency=concurrency,
            calls_per_second=settings.max_calls_per_second,
            retention_s=settings.retention,
            patience_s=settings.patience,
            drain_s=settings.drain,
            batch_events=settings.batch_events,
            shards_given=settings.shards is not None,
        )
        env = environment(route.endpoint, route.url)
        worker = make_worker(
            worker_settings, policy, keys, env, settings.equipment_url, spans, history
        )
        worker.connection.on_contradiction = command.fail
        if not settings.no_gc_tuning:
            freeze_once_connected(worker.connection)
        worker.shard_count.on_agreed = lambda: check_shards(settings.shard, count)
        return worker

    worker = Sharded(make, settings.shards, clock)
    command.metrics.add(lambda: worker_metrics(worker.role))
    command.metrics.add(lambda: connection_metrics([worker.role]))

    async def probe() -> None:
        await worker.role.readiness.check()

    def condition() -> Condition:
        role, calls = worker.role, f"calls to A under way: {worker.role.calls}"
        if not command.running:
            return Condition(True, f"stopping; {calls}")
        if not role.connection.connected:
            return Condition(False, f"connecting to {route.url}; {calls}")
        return Condition(True, f"connected to {route.url}; {calls}")

    command.condition = condition

    for each in (
        *route.follow(lambda: worker.role.connection),
        *([] if history is None else [history]),
        *health_if(settings.health_listen, Readiness(probe, clock), clock, command.metrics),
        worker,
    ):
        each.setServiceParent(command)
    return cast("IService", command)

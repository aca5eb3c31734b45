"""The worker's settings."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from rtprov.messaging.topology import (
    JOURNAL_MAX_AGE_S,
    Shard,
)


@frozen
class WorkerSettings:
    """The worker's settings; times are in seconds.

    - `shards`: the shards that it serves.
    - `concurrency`: the largest number of calls to A at the same time.
    - `calls_per_second`: the largest number of calls that begin in a second, None for no limit.
    - `retention_s`: how long the status of an ended task is kept.
    - `patience_s`: how long a task is retried while A cannot be reached.
    - `drain_s`: how long calls may take to finish when the worker stops.
    - `journal_age_s`: how long the broker keeps journals.
    - `batch_events`: whether several events of a journal are written as one message.
    - `shards_given`: whether the operator set the number of shards.
    """

    shards: Sequence[Shard]
    concurrency: int = 500
    calls_per_second: float | None = None
    retention_s: float = 86400.0
    patience_s: float = 600.0
    drain_s: float = 120.0
    journal_age_s: float = JOURNAL_MAX_AGE_S
    batch_events: bool = False
    shards_given: bool = True

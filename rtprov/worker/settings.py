"""The worker's options."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from rtprov.messaging.topology import (
    JOURNAL_MAX_AGE_S,
    Shard,
)


@frozen
class WorkerSettings:
    """The worker's options, as the contract names them; times in seconds.

    `journal_age_s` is how long the broker keeps journals. With `shards_given`, the operator asked
    for the number of shards."""

    shards: Sequence[Shard]
    concurrency: int = 500
    retention_s: float = 86400.0
    patience_s: float = 600.0
    drain_s: float = 120.0
    journal_age_s: float = JOURNAL_MAX_AGE_S
    shards_given: bool = True

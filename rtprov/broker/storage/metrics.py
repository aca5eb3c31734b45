"""The metrics of the embedded broker's file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtprov.metrics.families import number, total

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from rtprov.broker.storage.sqlite import SqliteStorage


def storage_metrics(storage: SqliteStorage) -> Iterator[Metric]:
    """Return the metrics of the file."""
    yield total(
        "rtprov_broker_commits",
        "Transactions that were written to the broker's file",
        storage.commits,
    )
    yield number(
        "rtprov_broker_file_bytes",
        "Size of the broker's database and its write-ahead log",
        storage.file_bytes,
    )
    yield number(
        "rtprov_broker_writable",
        "Whether the broker's file can be written (1) or not (0)",
        float(storage.trouble is None),
    )

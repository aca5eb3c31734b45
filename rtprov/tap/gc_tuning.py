"""Settings of Python's garbage collector, which otherwise causes most of the longest delays.

The collector looks for cycles of objects that nothing refers to. By default it looks at the
youngest objects after every few hundred new ones, and at times at all objects. With a million tasks
in memory that stops the process for a second. rtprov makes few cycles; most memory is freed without
the collector.

- `tune` exempts what exists when the process has started: modules, classes and code. From then on,
  objects are looked at after `THRESHOLD` new ones. With 50,000, a single collection took 70 to
  90 ms in a worker.
- `freeze_once_connected` exempts the tasks that a worker has read from its journals. An exempt task
  is still freed when it is forgotten; only cycles of exempt objects would stay.

``--no-gc-tuning`` leaves the collector as Python sets it, to find out whether these settings are
the cause of something.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtprov.amqp.client.service import BrokerConnection

THRESHOLD = 10_000
THRESHOLDS = (THRESHOLD, 20, 100)


def tune() -> None:
    """Set the collector's thresholds, and exempt all objects that exist now."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def freeze_once_connected(connection: BrokerConnection) -> None:
    """Exempt all objects that exist once `connection` is up.

    A worker's connection is up when it has replayed its journals. There is no collection before:
    it would take long, just when the worker is waited for.
    """
    connection.when_connected().addCallback(lambda _: gc.freeze())

"""The names of all metrics that rtprov has, read from a system in memory."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from rtprov.broker.server.metrics import broker_metrics
from rtprov.broker.storage.metrics import storage_metrics
from rtprov.frontend.metrics import frontend_metrics
from rtprov.frontend.resource import Frontend
from rtprov.http.traffic import Traffic
from rtprov.messaging.connection_metrics import connection_metrics
from rtprov.tap.process_metrics import build_info, expiries, lag
from rtprov.worker.metrics import worker_metrics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from tests.support.system import System

# Of the process, from prometheus-client; and the ones that Prometheus adds itself.
OTHERS = frozenset(
    {
        "up",
        "process_cpu_seconds_total",
        "process_max_fds",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
    }
)
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def families(system: System) -> list[Metric]:
    """Return the metrics of all roles of a running system."""
    (front,), (worker, *_) = system.frontends.values(), system.workers
    rules = [rule.rule for rule in Frontend.app.url_map.iter_rules()]
    storage: Any = SimpleNamespace(commits=0, file_bytes=0, trouble=None)
    return list(
        chain(
            build_info(),
            lag(0.0),
            expiries([]),
            frontend_metrics(front),
            worker_metrics(worker),
            connection_metrics([front, worker]),
            broker_metrics(system.broker),
            storage_metrics(cast("Any", storage)),
            Traffic(rules, system.clock.seconds).metrics(),
        )
    )


def base_names(system: System) -> set[str]:
    """Return the names as they are documented: histograms without a suffix, counters with one."""
    return {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in families(system)
    }


def series_names(system: System) -> set[str]:
    """Return the names that a query may have."""
    return {
        metric.name + suffix for metric in families(system) for suffix in _SUFFIXES[metric.type]
    } | OTHERS

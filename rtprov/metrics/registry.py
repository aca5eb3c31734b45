"""The registry of one process: it collects all metrics when Prometheus scrapes ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from twisted.logger import Logger

Source = Callable[[], Iterable[Metric]]

_log = Logger()


class Registry:
    """Collects the metrics of a process. It is an object, not a global: tests have several roles.

    `process` adds the CPU time, memory and open files of the process.
    """

    def __init__(self, *, process: bool = False) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        if process:
            ProcessCollector(registry=self._registry)

    def add(self, source: Source) -> None:
        """Call `source` at each scrape. No two sources may return a metric of the same name.

        If it fails, that is logged, and the other metrics are still returned.
        """
        self._registry.register(_Source(source))

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the format that ``Accept`` asks for, and the media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


class _Source(Collector):
    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> list[Metric]:
        try:
            return list(self._source())
        except Exception:
            _log.failure("could not collect a group of metrics; /metrics returns the others")
            return []

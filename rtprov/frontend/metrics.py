"""The metrics that only a front end has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtprov.metrics.families import counter, histogram

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from rtprov.frontend.service import FrontendService


def frontend_metrics(service: FrontendService) -> Iterator[Metric]:
    """Return the metrics of a front end."""
    frontend = service.frontend
    yield counter(
        "rtprov_tasks_accepted",
        "Tasks that were accepted, by the caller of their POST",
        ["caller"],
        frontend.accepted,
    )
    yield histogram(
        "rtprov_status_seconds",
        "Seconds until a worker answered a question for the status of a task",
        frontend.status_seconds,
    )

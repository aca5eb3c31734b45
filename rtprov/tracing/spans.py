"""The interface of spans. Without OpenTelemetry, `NO_SPANS` only passes the trace on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from rtprov.tracing.traceparent import own_traceparent


class Spans(Protocol):
    """Records spans. What happens in the ``with`` block of a span is in its time."""

    def span(
        self,
        name: str,
        parent: str | None,
        task_id: str,
        *,
        began_at: float | None = None,
    ) -> AbstractContextManager[str]:
        """Return the context manager of a span of the task; its value is the ``traceparent`` for
        what happens in the span.

        `parent` is the ``traceparent`` of the span above it; None begins a new trace. `began_at` is
        in seconds since the epoch, None means now. An exception that leaves the block is recorded
        by its class; its text is not.
        """


class NoSpans:
    """Implements `Spans`; records nothing."""

    def span(
        self,
        name: str,
        parent: str | None,
        task_id: str,
        *,
        began_at: float | None = None,
    ) -> AbstractContextManager[str]:
        return nullcontext(own_traceparent(task_id) if parent is None else parent)


NO_SPANS = NoSpans()

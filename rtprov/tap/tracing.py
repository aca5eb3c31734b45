"""Export of spans with OpenTelemetry.

It needs the extra ``otel``, and ``OTEL_EXPORTER_OTLP_ENDPOINT`` in the environment. The spans of a
task are POST, publish, queue (from its acceptance to its first call) and call. A thread of
OpenTelemetry exports them, so a collector that does not answer delays no task.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from rtprov.tracing.spans import NO_SPANS, Spans
from rtprov.tracing.traceparent import HEADER

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from twisted.internet.defer import Deferred

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_KINDS = {"POST": "SERVER", "publish": "PRODUCER", "queue": "CONSUMER", "call": "CLIENT"}

_log = Logger()


class Tracing(Service):
    """The `spans` of a process. When it is stopped, it exports the last of them."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.spans: Spans = OtelSpans(provider)

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return deferToThread(self._provider.shutdown)


class OtelSpans:
    """Implements `rtprov.tracing.spans.Spans` with OpenTelemetry."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._no_context = Context()
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("rtprov")

    @contextmanager
    def span(
        self,
        name: str,
        parent: str | None,
        task_id: str,
        *,
        began_at: float | None = None,
    ) -> Iterator[str]:
        context = self._no_context
        if parent is not None:
            context = self._propagator.extract({HEADER: parent}, context)
        span = self._tracer.start_span(
            name,
            context,
            kind=self._trace.SpanKind[_KINDS[name]],
            attributes={"rtprov.task": task_id},
            start_time=None if began_at is None else int(began_at * 1e9),
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span, context))
        try:
            yield carrier[HEADER]
        except BaseException as error:
            span.set_status(self._trace.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()


def make_tracing(role: str, environ: Mapping[str, str]) -> Tracing | None:
    """Return the service that exports the spans of this process; None if that is not asked for, or
    OpenTelemetry is not installed.
    """
    if not any(environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warn(
            "spans are not exported, although {name} is set: OpenTelemetry is not installed; pip"
            " install 'rtprov[otel]'",
            name=ENDPOINTS[0],
        )
        return None
    logging.getLogger("opentelemetry").addHandler(_Forward())
    name = role if role == "rtprov" else f"rtprov-{role}"
    named = bool(environ.get("OTEL_SERVICE_NAME"))
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def spans_of(tracing: Tracing | None) -> Spans:
    """Return the spans to use."""
    return NO_SPANS if tracing is None else tracing.spans


class _Forward(logging.Handler):
    """Logs what OpenTelemetry says, each text once in a row. It is called in other threads."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text != self.last:
            self.last = text
            cast("IReactorFromThreads", reactor).callFromThread(
                _log.warn, "OpenTelemetry: {text}", text=text
            )

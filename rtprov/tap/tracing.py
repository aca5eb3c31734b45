"""Export of spans with OpenTelemetry.

It needs the extra ``otel``, and ``OTEL_EXPORTER_OTLP_ENDPOINT`` in the environment. The spans of a
task are POST, publish, queue (from its acceptance to its first call) and call. A thread of
OpenTelemetry exports them. A collector that does not answer delays no task; it delays a stop by 2 s
at most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, cast

from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtprov.tracing.spans import NO_SPANS, Spans
from rtprov.tracing.traceparent import HEADER

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
WAIT_S = 2.0
_KINDS = {"POST": "SERVER", "publish": "PRODUCER", "queue": "CONSUMER", "call": "CLIENT"}

_log = Logger()


class Tracing(Service):
    """The `spans` of a process. When it is stopped, it exports the last of them.

    The stop waits up to 2 s for that. `run_in_thread` runs a function on a new daemon thread, so
    that the process ends without waiting for it. `call_from_thread` calls a function on the
    reactor's thread.
    """

    def __init__(
        self,
        provider: TracerProvider,
        *,
        clock: IReactorTime,
        run_in_thread: Callable[[Callable[[], None]], None],
        call_from_thread: Callable[..., object],
    ) -> None:
        self._provider = provider
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._call_from_thread = call_from_thread
        self._exported: Deferred[None] = Deferred()
        self._exported.addErrback(lambda why: None if why.check(CancelledError) else why)
        self.spans: Spans = OtelSpans(provider)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._run_in_thread(self._export)
        return self._exported.addTimeout(WAIT_S, self._clock, self._on_timeout)

    def stop_now(self) -> None:
        """Do not wait for the export when stopping. May be called before `stopService`."""
        self._exported.cancel()

    def _export(self) -> None:
        result: Failure | None = None
        try:
            self._provider.shutdown()
        except BaseException:
            result = Failure()
        self._call_from_thread(self._exported.callback, result)

    def _on_timeout(self, _reason: object, _timeout: float) -> None:
        _log.warn(
            "the last spans were not exported within {seconds:g} s; stopping without them",
            seconds=WAIT_S,
        )


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
    provider = TracerProvider(
        resource=Resource.create({} if named else {"service.name": name}),
        shutdown_on_exit=False,  # it would wait for the collector; `Tracing` exports the last spans
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(
        provider,
        clock=cast("IReactorTime", reactor),  # `rtprov.tap.process` makes it monotonic
        run_in_thread=_run_in_thread,
        call_from_thread=cast("IReactorFromThreads", reactor).callFromThread,
    )


def _run_in_thread(function: Callable[[], None]) -> None:
    Thread(target=function, name="rtprov-spans", daemon=True).start()


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

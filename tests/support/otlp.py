"""A small receiver for spans: OTLP over HTTP, as an OpenTelemetry collector has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Request

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver(Resource):
    """Keeps the spans that are posted to it, by their names."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.spans: dict[str, Span] = {}
        self.services: set[str] = set()
        self._waiting: list[tuple[int, Deferred[None]]] = []

    def has(self, count: int) -> Deferred[None]:
        """Fire when spans of so many names have come."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append((count, waiting))
        self._look()
        return waiting

    def render_POST(self, request: Request) -> bytes:
        assert request.path == b"/v1/traces" and request.content is not None
        message = ExportTraceServiceRequest.FromString(request.content.read())
        for resource in message.resource_spans:
            for attribute in resource.resource.attributes:
                if attribute.key == "service.name":
                    self.services.add(attribute.value.string_value)
            for scope in resource.scope_spans:
                self.spans.update({span.name: span for span in scope.spans})
        self._look()
        request.setHeader(b"Content-Type", b"application/x-protobuf")
        return b""

    def _look(self) -> None:
        for entry in list(self._waiting):
            if len(self.spans) >= entry[0]:
                self._waiting.remove(entry)
                entry[1].callback(None)

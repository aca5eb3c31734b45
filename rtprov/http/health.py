"""Health checks: ``/livez`` for supervisors, ``/readyz`` for load balancers. Also ``/metrics``.

A process is alive if it answers. Readiness depends on the role:

- A front end is ready if the broker confirms messages, and a worker of each shard answers and has
  the front end's sealing key.
- A worker is ready if it has replayed its journals, and the broker confirms messages.
- A stub is always ready.

However often a process is asked, it checks its readiness at most once a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from klein import Klein
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from rtprov.http.request import json_resource
from rtprov.http.responses import answer, answer_bytes, answer_error, envelope

if TYPE_CHECKING:
    from twisted.web.resource import IResource

    from rtprov.metrics.registry import Registry
    from rtprov.readiness import Readiness


class Health:
    """Serves only ``/livez``, ``/readyz`` and ``/metrics``, on an address of their own."""

    app = Klein()

    def __init__(self, readiness: Readiness, metrics: Registry) -> None:
        self._readiness = readiness
        self._metrics = metrics

    def resource(self) -> IResource:
        """Return the resource for a `rtprov.http.site.JsonSite`."""
        return json_resource(self.app)

    @app.handle_errors(Exception)
    def _on_error(self, request: IRequest, failure: Failure) -> bytes:
        return answer_error(request, failure)

    @app.route("/livez", methods=["GET"])
    def _live(self, request: IRequest) -> bytes:
        return answer_alive(request)

    @app.route("/readyz", methods=["GET"])
    async def _ready(self, request: IRequest) -> bytes:
        return await answer_ready(request, self._readiness)

    @app.route("/metrics", methods=["GET"])
    def _metrics_text(self, request: IRequest) -> bytes:
        accepted = b",".join(request.requestHeaders.getRawHeaders(b"Accept", []))
        text, media_type = self._metrics.text(accepted.decode("latin-1"))
        return answer_bytes(request, media_type.encode("latin-1"), text)


def answer_alive(request: IRequest) -> bytes:
    """Return the answer to ``GET /livez``."""
    return answer(request, 200, envelope(200, "Alive"))


async def answer_ready(request: IRequest, readiness: Readiness) -> bytes:
    """Return the answer to ``GET /readyz``. Raises `NotReady`."""
    await readiness.check()
    return answer(request, 200, envelope(200, "Ready"))

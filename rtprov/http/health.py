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
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from rtprov.errors import NotReady
from rtprov.http.request import json_resource
from rtprov.http.responses import answer, answer_bytes, answer_error, envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from twisted.internet.interfaces import IReactorTime
    from twisted.web.resource import IResource

    from rtprov.metrics.registry import Registry

REMEMBERED_S = 1.0


class Readiness:
    """Checks readiness with `probe`, a coroutine function that raises `NotReady`.

    All requests within a second share one result.
    """

    def __init__(self, probe: Callable[[], Coroutine[Any, Any, None]], clock: IReactorTime) -> None:
        self._probe = probe
        self._clock = clock
        self._looked_at = -REMEMBERED_S
        self._reason: str | None = None
        self._stopping = False
        self._waiters: list[Deferred[None]] | None = None

    async def check(self) -> None:
        """Return if the process is ready, else raise `NotReady`."""
        if self._stopping:
            raise NotReady("Not ready: this process is stopping")
        # The clock may be set back.
        if not 0 <= self._clock.seconds() - self._looked_at < REMEMBERED_S:
            waiter: Deferred[None] = Deferred()
            if self._waiters is None:
                self._waiters = [waiter]
                Deferred.fromCoroutine(self._probe()).addCallbacks(self._looked, self._failed)
            else:
                self._waiters.append(waiter)
            await waiter
        if self._reason is not None:
            raise NotReady(self._reason)

    def stop(self) -> None:
        """From now on the process is not ready, so that load balancers stop using it."""
        self._stopping = True

    def _failed(self, reason: Failure) -> None:
        self._looked(
            None, str(reason.value) if reason.check(NotReady) else "Not ready: an unexpected error"
        )

    def _looked(self, _: None, reason: str | None = None) -> None:
        self._looked_at, self._reason = self._clock.seconds(), reason
        waiters, self._waiters = self._waiters or [], None
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)


def always_ready(clock: IReactorTime) -> Readiness:
    """Return the readiness of a process that depends on nothing."""

    async def probe() -> None:
        await succeed(None)

    return Readiness(probe, clock)


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

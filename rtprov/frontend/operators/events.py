"""The request for the event stream (Server-Sent Events, HTML Living Standard §9.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from rtprov.errors import TooManyRequests
from rtprov.frontend.query_parameters import arguments_of, no_parameters
from rtprov.http.request import admission_of

if TYPE_CHECKING:
    from twisted.web.iweb import IRequest

    from rtprov.frontend.operators.event_hub import EventHub

AGAIN_AFTER_S = 10
RECONNECT_MS = 2000
MAX_ID_LENGTH = 100


async def answer_events(request: IRequest, hub: EventHub) -> bytes:
    """Send events until the client or the hub closes the stream.

    Raises `InvalidQuery`, and `TooManyRequests` if there are too many listeners.
    """
    no_parameters(arguments_of(cast("bytes", request.uri)))
    if hub.full:
        raise TooManyRequests(AGAIN_AFTER_S)
    request.setHeader(b"Content-Type", b"text/event-stream")
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Accel-Buffering", b"no")  # for nginx: pass each event on at once
    if request.method == b"HEAD":
        return b""
    ids = request.requestHeaders.getRawHeaders(b"Last-Event-ID") or [b""]
    stream = _Stream(request, hub)
    stream.send(b"retry: %d\n\n" % RECONNECT_MS)
    hub.add(stream, ids[-1][:MAX_ID_LENGTH].decode("latin-1"))
    try:
        await stream.ended
    finally:
        hub.remove(stream)
        stream.close()
    return b""


@implementer(IPushProducer)
class _Stream:
    """One listener; see `rtprov.frontend.operators.event_hub.Listener`."""

    def __init__(self, request: IRequest, hub: EventHub) -> None:
        self._request = request
        self._hub = hub
        self.position = 0
        self.reads = True
        self.ended: Deferred[None] = Deferred()
        self._admission = admission_of(request)
        cast("Any", request).registerProducer(self, True)

    @property
    def admitted(self) -> bool:
        return self._admission is None or self._admission.still_admits(self._request.requestHeaders)

    def send(self, data: bytes) -> None:
        self._request.write(data)

    def end(self) -> None:
        """End the answer, and close the connection: the client may read nothing of it."""
        if not self.ended.called:
            channel = cast("Any", self._request).channel
            self.ended.callback(None)
            channel.loseConnection()

    def close(self) -> None:
        request = cast("Any", self._request)
        if request.channel is not None:  # else the connection is lost
            request.unregisterProducer()

    # IPushProducer.

    def pauseProducing(self) -> None:
        self.reads = False

    def resumeProducing(self) -> None:
        self.reads = True
        self._hub.resume(self)

    def stopProducing(self) -> None:
        """The connection is lost; Klein cancels the handler."""

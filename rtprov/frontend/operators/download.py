"""A response body that is written piece by piece, while the client reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from rtprov.errors import RtprovError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.iweb import IRequest

STALLED_AFTER_S = 60.0


class ClientStalled(RtprovError):
    """The client has read nothing of an answer for a minute."""

    def __init__(self) -> None:
        super().__init__(f"The client read nothing for {STALLED_AFTER_S:g} s")


@implementer(IPushProducer)
class StreamedBody:
    """The body of `request`'s answer; set its headers first. Call `close` at the end.

    What is written waits in memory until the client reads it. So `ready` is awaited before the next
    piece is made.
    """

    def __init__(self, request: IRequest, clock: IReactorTime) -> None:
        self._request = request
        self._clock = clock
        self._resumed: Deferred[None] | None = None
        self._paused = False
        cast("Any", request).registerProducer(self, True)

    async def ready(self) -> None:
        """Wait until the client reads. Raises `ClientStalled` if it does not."""
        if not self._paused:
            return
        self._resumed = Deferred()
        try:
            await self._resumed.addTimeout(STALLED_AFTER_S, self._clock)
        except TimeoutError:
            raise ClientStalled from None
        finally:
            self._resumed = None

    def write(self, data: bytes) -> None:
        """Send a piece."""
        if data:
            self._request.write(data)

    def close(self) -> None:
        """Call this when the body is complete, or its connection was closed."""
        request = cast("Any", self._request)
        if request.channel is not None:
            request.unregisterProducer()

    # IPushProducer.

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        resumed = self._resumed
        if resumed is not None and not resumed.called:
            resumed.callback(None)

    def stopProducing(self) -> None:
        """The connection is lost; Klein cancels the handler."""

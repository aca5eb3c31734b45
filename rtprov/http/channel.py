"""The limits of one HTTP connection: one request at a time, time to arrive, time to close.

Twisted's `HTTPChannel` answers all requests that have arrived at once. It keeps a connection open
for as long as a client sends data or leaves answers unread. `LimitedChannel` does neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from twisted.internet.protocol import connectionDone
from twisted.web.http import HTTPChannel

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure
    from twisted.web.server import Request

CLOSE_TIMEOUT_S = 15
EAGER_BYTES = 0x4000  # of the next request, read during an answer to notice a disconnect


class LimitedChannel(HTTPChannel):
    """An HTTP/1.1 connection with limits on time and memory.

    - A request is read only after the previous one is answered, in a later turn of the reactor, and
      while the client reads its answers.
    - A request must arrive as a whole within ``timeOut`` seconds (Twisted's attribute). The next
      request must begin within as many seconds.
    - A connection that closes is aborted after `CLOSE_TIMEOUT_S` seconds.
    """

    arriving = False
    """Whether a part of a request has arrived, but not all of it."""
    begun = False
    """Whether any part of any request has arrived."""
    _held: bytes | None = None  # data of the next request; None while requests are read
    _client_reads = True
    _abort_call: IDelayedCall | None = None  # set once the connection closes

    @property
    def waits_for_request(self) -> bool:
        """Whether the next byte to arrive is the first one of a request."""
        return not (
            self.arriving or self.requests or self._held is not None or self._abort_call is not None
        )

    def request_timed_out(self) -> None:
        """Called when a request has not arrived in time. Must close the connection."""
        raise NotImplementedError

    def hold_requests(self) -> None:
        """Read no request until `resume_requests` is called."""
        self._held = b""

    def resume_requests(self) -> None:
        """Read requests again, if the client reads its answers."""
        if self._held is not None and self._client_reads:
            rest, self._held = self._held, None
            if rest:
                cast("Any", self.transport).resumeProducing()
                self.dataReceived(rest)

    def dataReceived(self, data: bytes) -> None:
        if self._held is not None:
            self._hold(data)
        # TLS still delivers data that arrives after the connection was closed.
        elif self._abort_call is None:
            super().dataReceived(data)

    def requestDone(self, request: Request) -> None:
        """Called when a request is answered. The next one waits for the reactor and the client.

        Twisted would answer everything that has arrived at once. A thousand requests in one piece
        of data would fill the memory with answers if the client does not read them.
        """
        self.paused = True  # LineReceiver then parses no further data
        super().requestDone(request)
        self.paused = False
        rest = self.clearLineBuffer()
        if self.persistent:
            self._held = rest
            self.next_request()

    def next_request(self) -> None:
        """Read the next request in a later turn of the reactor. A part of it may be held."""
        held = self._held
        self.hold_requests()
        self.callLater(0, self.resume_requests)
        if held:
            self.resetTimeout()
            self._hold(held)

    def _hold(self, data: bytes) -> None:
        assert self._held is not None
        self._held += data
        if not self.requests or len(self._held) > EAGER_BYTES:
            cast("Any", self.transport).pauseProducing()

    def pauseProducing(self) -> None:
        self._client_reads = False
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._client_reads = True
        super().resumeProducing()
        if self._held is not None:
            self.callLater(0, self.resume_requests)

    def allContentReceived(self) -> None:
        self.arriving = False
        super().allContentReceived()

    def resetTimeout(self) -> None:
        """Called with each piece of data. Only the first piece of a request restarts the timeout.

        Otherwise a request could arrive byte by byte for days.
        """
        if not self.arriving:
            self.arriving = self.begun = True
            super().resetTimeout()

    def timeoutConnection(self) -> None:
        if self.arriving:
            self.request_timed_out()
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close the connection after all data is written; abort it if that takes too long.

        The client may not read the data. With TLS, closing also waits for the client's close.
        """
        if self._abort_call is None:
            self._abort_call = self.callLater(
                CLOSE_TIMEOUT_S, cast("Any", self.transport).abortConnection
            )
            super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._abort_call is not None and self._abort_call.active():
            self._abort_call.cancel()
        self._held = None
        super().connectionLost(reason)

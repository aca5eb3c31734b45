"""Reads the body of an HTTP answer piece by piece, with a limit on silence."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.web.client import ResponseDone

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure
    from twisted.web.iweb import IResponse

MAX_ANSWER_BYTES = 32 * 1024 * 1024
PAUSE_ABOVE = 64  # pieces that have arrived and were not read


class Stalled(Exception):
    """Nothing arrived for too long."""


class TooLong(Exception):
    """The answer is longer than `MAX_ANSWER_BYTES`."""


class BodyStream(Protocol):
    """The body of one answer.

    `read` returns its next piece, and None at its end. It fails with `Stalled` if nothing arrives
    for `silent_for_s` seconds, and with the connection's error if that breaks.
    """

    def __init__(self, clock: IReactorTime, silent_for_s: float) -> None:
        self._clock = clock
        self._silent_for_s = silent_for_s
        self._pieces: deque[bytes] = deque()
        self._reader: Deferred[None] | None = None
        self._over: BaseException | None = None
        self._timer: IDelayedCall | None = None
        self._paused = False

    @classmethod
    def of(cls, response: IResponse, clock: IReactorTime, silent_for_s: float) -> BodyStream:
        """Return the body of a response."""
        body = cls(clock, silent_for_s)
        response.deliverBody(body)
        return body

    async def read(self) -> bytes | None:
        """Return the next piece, None at the end."""
        if not self._pieces and self._over is None:
            self._reader = Deferred(lambda _: self.close())
            self._timer = self._clock.callLater(self._silent_for_s, self._stalled)
            try:
                await self._reader
            finally:
                self._reader = None
                if self._timer.active():
                    self._timer.cancel()
        if self._pieces:
            piece = self._pieces.popleft()
            if self._paused and not self._pieces:
                self._paused = False
                cast("Any", self.transport).resumeProducing()
            return piece
        assert self._over is not None
        if isinstance(self._over, ResponseDone):
            return None
        raise self._over

    def close(self) -> None:
        """Stop reading, and close the connection if the answer has not ended."""
        if self._over is None:
            self._over = ResponseDone()
            self._pieces.clear()
            if self.transport is not None:
                cast("Any", self.transport).loseConnection()

    def _stalled(self) -> None:
        if self._over is None:
            self.close()
            self._over = Stalled(f"nothing arrived for {self._silent_for_s:.0f} s")
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.called:
            self._reader.callback(None)

    # Called by Twisted.

    def dataReceived(self, data: bytes) -> None:
        if self._over is None:
            self._pieces.append(data)
            if len(self._pieces) > PAUSE_ABOVE and not self._paused:
                self._paused = True
                cast("Any", self.transport).pauseProducing()
            self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._over is None:
            self._over = reason.value
            self._wake()


async def read_all(response: IResponse, clock: IReactorTime, silent_for_s: float) -> bytes:
    """Return the whole body of an answer. Raises `TooLong`, or as `BodyStream.read`."""
    body, pieces, size = BodyStream.of(response, clock, silent_for_s), [], 0
    while (piece := await body.read()) is not None:
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            body.close()
            raise TooLong(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)

"""Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater

from rtprov.cli.api import API, Api
from rtprov.cli.failures import OutOfReach, Status, VerbFailed
from rtprov.errors import RtprovError

MEDIA_TYPE = "text/event-stream"
MAX_LINE = 1024 * 1024
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 15.0


class StreamBroken(RtprovError):
    """The stream of events sent something that is no event."""


@frozen
class ServerEvent:
    """One event: its kind, its id (or None), and its JSON document."""

    kind: str
    id: str | None
    data: Any


@define
class Parser:
    """Turns the bytes of a stream into events."""

    _rest: bytes = b""
    _kind: str = ""
    _id: str | None = None
    _data: list[str] = field(factory=list)

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Yield the events that `piece` completes. Raises `StreamBroken`."""
        *lines, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise StreamBroken("a line of the stream of events is too long")
        for line in lines:
            event = self._line(line.decode("utf-8", "replace"))
            if event is not None:
                yield event

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value
        return None

    def _dispatch(self) -> ServerEvent | None:
        kind, lines, self._kind, self._data = self._kind or "message", self._data, "", []
        if not lines:
            return None
        try:
            return ServerEvent(kind, self._id, json.loads("\n".join(lines)))
        except (ValueError, RecursionError):
            raise StreamBroken("an event is not JSON") from None


async def events(api: Api, *, last_id: str | None = None) -> AsyncIterator[ServerEvent | None]:
    """Yield all events, for ever; None each time the stream breaks. It is then opened again.

    Raises `VerbFailed` if the stream cannot be opened at first, or is refused later.
    """
    opened, pause_s = False, FIRST_PAUSE_S
    while True:
        try:
            headers = {"Accept": MEDIA_TYPE}
            if last_id is not None:
                headers["Last-Event-ID"] = last_id
            body = await api.stream(f"{API}/events", media_type=MEDIA_TYPE, headers=headers)
            opened, pause_s = True, FIRST_PAUSE_S
            try:
                parser = Parser()
                while (piece := await body.read()) is not None:
                    for event in parser.feed(piece):
                        last_id = event.id or last_id
                        yield event
            finally:
                body.close()
            api.tell("service B has closed the stream of events; opening it again")
        except CancelledError:
            raise
        except OutOfReach as error:
            if not opened:
                raise
            api.tell(f"{error}; trying again in {pause_s:.0f} s")
        except VerbFailed as error:
            if not opened or error.status in (Status.NOT_ALLOWED, Status.NOT_FOUND):
                raise
            api.tell(f"{error}; trying again in {pause_s:.0f} s")
        except Exception as error:  # connection errors have no common base class
            if not opened:
                raise
            api.tell(f"{api.explain(error)}; opening the stream of events again")
        yield None
        await deferLater(api.clock, pause_s)
        pause_s = min(MAX_PAUSE_S, pause_s * 2)

"""Read Server-Sent Events from the bytes of an HTTP answer."""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen


@frozen
class StreamEvent:
    """One event: its kind, its data, and its id if it has one."""

    kind: str
    data: Any
    event_id: str | None


def stream_events(received: bytes) -> list[StreamEvent]:
    """Return the complete events in a chunked answer that may go on."""
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b"text/event-stream" in head, head
    body = b""
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "event" in fields:
            found.append(StreamEvent(fields["event"], json.loads(fields["data"]), fields.get("id")))
    return found

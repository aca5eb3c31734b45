"""What one client of the broker may use."""

from __future__ import annotations

import attrs


@attrs.frozen
class Limits:
    """Sizes in bytes, times in seconds.

    A client that leaves more than `backlog_bytes` unread is not read from until it has read them;
    nor is a publisher while messages in all queues together take more than `memory_bytes` of
    memory. Unfinished messages of all clients together may take `unfinished_bytes`. A method that
    waits longer than `reading_s` for messages from the disk costs the connection."""

    connections: int = 1000
    channels: int = 2047
    frame_bytes: int = 131072
    body_bytes: int = 16 * 1024 * 1024
    backlog_bytes: int = 4 * 1024 * 1024
    memory_bytes: int = 256 * 1024 * 1024
    unfinished_bytes: int = 128 * 1024 * 1024
    handshake_s: float = 10.0
    closing_s: float = 5.0
    reading_s: float = 30.0
    heartbeat_s: int = 60

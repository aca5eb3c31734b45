"""The limits of the embedded broker."""

from __future__ import annotations

import attrs


@attrs.frozen
class Limits:
    """Limits of the broker. Sizes are in bytes, times in seconds.

    - `connections`: open connections.
    - `channels`: channels of one connection.
    - `frame_bytes`: the largest frame.
    - `body_bytes`: the largest message body.
    - `backlog_bytes`: data written to a client that does not read. If there is more, the broker
      stops reading from the client until the client has read everything.
    - `memory_bytes`: messages of all queues in memory. If they use more, the broker stops reading
      from publishers.
    - `unfinished_bytes`: incompletely received messages of all clients. If they use more, the
      broker closes the connection that sent the last part.
    - `handshake_s`: how long a client may take to log in.
    - `closing_s`: how long a client may take to reply to ``connection.close``.
    - `reading_s`: how long a method waits for messages from the disk before the broker closes the
      connection.
    - `heartbeat_s`: the heartbeat interval offered to clients.
    """

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

"""A small HTTPS client for measurements, with keep-alive connections."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import Any

BODY = (
    b'{"timeoutInSeconds": 14, "parameters": [{"username": "admin"}, {"password": "admin"},'
    b' {"vlan": 534}, {"interfaces": [1, 2, 3, 4]}]}'
)
TIMEOUT_S = 30.0
# The contenders close connections that are idle for 60 s, perhaps just as a request is sent.
IDLE_S = 30.0


class Refused(ValueError):
    """An answer that the measurement does not expect."""


class Client:
    """Sends requests to a port of this machine; opens as many connections as it needs."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        self.port = port
        self._tls = tls
        # Connections with the time of their last answer.
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []

    async def post(self, path: str) -> str:
        """Post an order; return the path of its task. Raises `Refused` and OSError."""
        status, location, body = await self._ask(b"POST", path, BODY)
        if status != 200 or location is None:
            raise Refused(f"POST: {status} {body!r}")
        return location

    async def code(self, path: str) -> int:
        """Return the code of a task's status: 200, 204 or 500."""
        status, _, body = await self._ask(b"GET", path)
        code = json.loads(body)["code"]
        if code not in (200, 204, 500) or status not in (200, 500):
            raise Refused(f"GET: {status} {body!r}")
        return int(code)

    async def document(self, path: str) -> Any:
        return json.loads((await self._ask(b"GET", path))[2])

    def close(self) -> None:
        for _, writer, _ in self._idle:
            writer.close()
        self._idle.clear()

    async def _ask(
        self, method: bytes, path: str, body: bytes = b""
    ) -> tuple[int, str | None, bytes]:
        return await asyncio.wait_for(self._talk(method, path, body), TIMEOUT_S)

    async def _talk(self, method: bytes, path: str, body: bytes) -> tuple[int, str | None, bytes]:
        reader, writer = await self._connection()
        length = b"Content-Length: %d\r\n" % len(body) if body else b""
        writer.write(
            b"%b %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%b\r\n%b"
            % (method, path.encode(), length, body)
        )
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {
                name.lower(): value
                for name, _, value in (line.partition(": ") for line in head[1:])
            }
            answer = await reader.readexactly(int(fields["content-length"]))
        except asyncio.IncompleteReadError as error:
            writer.close()
            raise ConnectionError("closed without an answer") from error
        self._idle.append((reader, writer, time.monotonic()))
        return int(head[0].split(" ")[1]), fields.get("location"), answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection that was used lately, or a new one."""
        while self._idle:
            reader, writer, used_at = self._idle.pop()
            if time.monotonic() - used_at < IDLE_S:
                return reader, writer
            writer.close()
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self._tls, server_hostname="localhost"
        )

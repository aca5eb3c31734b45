"""Service A for measurements: ``service_a.py PORT CERTS DELAY``.

It answers every order with success, after the delay; serials that begin with FAST at once. GET
``/stats`` returns the calls so far, those that are open, and the largest number of open calls.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import httptools
import uvloop

SUCCESS = b'{"code": 200, "message": "success"}'


class Counts:
    calls = 0
    now = 0
    most = 0


class Connection(asyncio.Protocol):
    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_message_complete(self) -> None:
        if self._url == b"/stats":
            counts = {"calls": Counts.calls, "now": Counts.now, "most": Counts.most}
            self._answer(json.dumps(counts).encode())
            return
        Counts.calls += 1
        Counts.now += 1
        Counts.most = max(Counts.most, Counts.now)
        delay_s = 0.0 if b"/FAST" in self._url else self._delay_s
        asyncio.get_running_loop().call_later(delay_s, self._succeed)

    def _succeed(self) -> None:
        Counts.now -= 1
        self._answer(SUCCESS)

    def _answer(self, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )


async def main(port: int, certs: Path, delay_s: float) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certs / "stub.pem", certs / "stub.key")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(delay_s), "127.0.0.1", port, ssl=tls, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))

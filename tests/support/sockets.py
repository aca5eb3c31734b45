"""Raw TLS client connections over real sockets, with any version, any cipher and any bytes. Each
call waits for at most `PATIENCE_S`.

The calls block. The server must be another process, or the test must move the calls to threads.
"""

from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path
from typing import Any

from tests.support.raw_http import RawAnswer

PATIENCE_S = 15.0
HOST = "127.0.0.1"


def context(
    ca: Path,
    certificate: Path | None = None,
    key: Path | None = None,
    *,
    alpn: tuple[str, ...] = (),
) -> ssl.SSLContext:
    """Return a client context that trusts `ca`, with Python's defaults otherwise."""
    made = ssl.create_default_context(cafile=str(ca))
    if certificate is not None:
        made.load_cert_chain(certificate, key)
    if alpn:
        made.set_alpn_protocols(list(alpn))
    return made


def unverified_context(
    version: ssl.TLSVersion, ciphers: str = "ALL:COMPLEMENTOFALL"
) -> ssl.SSLContext:
    """Return a client context of one TLS version that verifies nothing and accepts every cipher."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    made.minimum_version = made.maximum_version = version
    return made


def dial(port: int, source: str = HOST) -> socket.socket:
    """Open a TCP connection from the local address `source`."""
    return socket.create_connection((HOST, port), PATIENCE_S, (source, 0))


class Wire:
    """One TLS connection, to be used in a ``with`` statement."""

    def __init__(self, port: int, tls: ssl.SSLContext, source: str = HOST) -> None:
        self.socket = tls.wrap_socket(dial(port, source), server_hostname="localhost")
        self._rest = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def serial(self) -> str:
        """The serial number of the server's certificate."""
        certificate: Any = self.socket.getpeercert()
        return str(certificate["serialNumber"])

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> RawAnswer:
        """Return the next answer, which must have a Content-Length."""
        while b"\r\n\r\n" not in self._rest:
            self._receive()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        start, *lines = head.decode().split("\r\n")
        fields = tuple(
            (name.lower(), value) for name, value in (line.split(": ", 1) for line in lines)
        )
        length = int(dict(fields)["content-length"])
        while len(self._rest) < length:
            self._receive()
        body, self._rest = self._rest[:length], self._rest[length:]
        version, status, phrase = start.split(" ", 2)
        return RawAnswer(version, int(status), phrase, fields, body)

    def ask(self, data: bytes) -> RawAnswer:
        self.send(data)
        return self.answer()

    @property
    def closed(self) -> bool:
        """Wait for the end of the connection; return whether nothing more was received."""
        try:
            return self.socket.recv(1) == b"" and not self._rest
        except (ConnectionError, ssl.SSLEOFError):
            return not self._rest

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(f"closed after {self._rest!r}")
        self._rest += data


def refused(port: int, tls: ssl.SSLContext) -> str | None:
    """Return the TLS alert with which the server refuses such a client (RFC 8446 §6), or None if it
    accepts it.
    """
    try:
        with Wire(port, tls) as wire:
            wire.ask(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
    except ssl.SSLError as error:
        return (error.reason or str(error)).rpartition("ALERT_")[2]
    return None


def message(answer: RawAnswer) -> tuple[int, str]:
    """Return an error's status and message; the envelope must repeat the status."""
    document = json.loads(answer.body)
    assert document["code"] == answer.status, answer
    return answer.status, document["message"]

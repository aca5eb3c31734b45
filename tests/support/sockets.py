"""Real TLS connections as a stranger makes them: any version, any cipher, any bytes; each call
waits for at most `PATIENCE_S`.

They block. The server they speak to is another process, or runs in a test that moves the calls to
threads."""

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
    """A client that trusts `ca`, and is otherwise as Python makes one."""
    made = ssl.create_default_context(cafile=str(ca))
    if certificate is not None:
        made.load_cert_chain(certificate, key)
    if alpn:
        made.set_alpn_protocols(list(alpn))
    return made


def unscrupulous(version: ssl.TLSVersion, ciphers: str = "ALL:COMPLEMENTOFALL") -> ssl.SSLContext:
    """A client of one version that takes anything from anybody."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    made.minimum_version = made.maximum_version = version
    return made


def dial(port: int, source: str = HOST) -> socket.socket:
    """A TCP connection from the address `source` of this machine."""
    return socket.create_connection((HOST, port), PATIENCE_S, (source, 0))


class Wire:
    """One TLS connection. Use it in a ``with``."""

    def __init__(self, port: int, tls: ssl.SSLContext, source: str = HOST) -> None:
        self.socket = tls.wrap_socket(dial(port, source), server_hostname="localhost")
        self._rest = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def serial(self) -> str:
        """The serial number of the certificate that the server shows."""
        certificate: Any = self.socket.getpeercert()
        return str(certificate["serialNumber"])

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> RawAnswer:
        """The next answer, with a Content-Length."""
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
        """Wait for the connection's end; whether nothing more has come on it."""
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
    """The server's reason not to talk to such a client, as its TLS alert has it (RFC 8446 §6); None
    where it talks.
    """
    try:
        with Wire(port, tls) as wire:
            wire.ask(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
    except ssl.SSLError as error:
        return (error.reason or str(error)).rpartition("ALERT_")[2]
    return None


def message(answer: RawAnswer) -> tuple[int, str]:
    """An error's status and message; it is in the envelope, which says the same."""
    document = json.loads(answer.body)
    assert document["code"] == answer.status, answer
    return answer.status, document["message"]

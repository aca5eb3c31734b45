"""The server's part of the handshake (AMQP 0-9-1 §2.2.4).

The steps are: protocol header, log-in, tuning, virtual host. This module does no I/O: the
connection passes in what it receives, and sends what is returned.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pamqp import base
from pamqp.commands import Connection

from rtprov import __version__
from rtprov.amqp.framing import FRAME_MIN_SIZE, PROTOCOL_HEADER, Command
from rtprov.broker.server.sasl import MECHANISMS, credentials_from
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from rtprov.broker.server.limits import Limits

_PROPERTIES: dict[str, Any] = {
    "product": "rtprov",
    "version": __version__,
    "capabilities": {
        "publisher_confirms": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "authentication_failure_close": True,
        "per_consumer_qos": True,
        "direct_reply_to": True,
    },
}


class OtherProtocol(Exception):
    """The client does not speak AMQP 0-9-1.

    The broker sends its protocol header and closes the connection (§4.2.2).
    """


class LoginRefused(AmqpError):
    """The user name or the password is wrong.

    `send_close` is whether to send ``connection.close`` with the reply code. Clients that do not
    support ``authentication_failure_close`` do not expect it, so the broker only disconnects them.
    """

    def __init__(self, username: str, mechanism: str, send_close: bool) -> None:
        text = (
            f"ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}. For"
            " details see the broker logfile."
        )
        super().__init__(403, text)
        self.username = username
        self.send_close = send_close


class Handshake:
    """The handshake with one client. `credentials` maps user names to passwords.

    - `greeted`: whether the protocol header was received.
    - `done`: whether the virtual host is open.
    - `username`: the user that is logged in.
    - `capabilities`: the names of the capabilities that the client has announced.
    - `frame_max`: the negotiated largest frame, in bytes.
    - `heartbeat_s`: the negotiated heartbeat interval, in seconds; 0 for no heartbeats.
    """

    def __init__(self, *, credentials: Mapping[str, str], limits: Limits) -> None:
        self._credentials = credentials
        self._limits = limits
        self._header = b""
        self._stage: Callable[[Command], base.Frame | None] = self._on_start_ok
        self.greeted = self.done = False
        self.username = ""
        self.capabilities: frozenset[str] = frozenset()
        self.frame_max = FRAME_MIN_SIZE
        self.heartbeat_s = 0

    def greet(self, data: bytes) -> bytes:
        """Consume the protocol header from the first bytes. Return the bytes after it.

        Can be called several times, until the header is complete. Raises `OtherProtocol`.
        """
        self._header += data
        if len(self._header) < len(PROTOCOL_HEADER) and PROTOCOL_HEADER.startswith(self._header):
            return b""
        if not self._header.startswith(PROTOCOL_HEADER):
            raise OtherProtocol
        self.greeted = True
        return self._header[len(PROTOCOL_HEADER) :]

    @property
    def start(self) -> base.Frame:
        """The method that the broker sends after the protocol header."""
        return Connection.Start(0, 9, _PROPERTIES, MECHANISMS, "en_US")

    def answer(self, command: Command) -> base.Frame | None:
        """Handle the next method of the client. Return the reply, or None if there is none.

        Raises `LoginRefused` for wrong credentials, and `AmqpError` for other errors.
        """
        return self._stage(command)

    def _on_start_ok(self, command: Command) -> base.Frame:
        method = _expect(command, Connection.StartOk)
        capabilities = (method.client_properties or {}).get("capabilities")
        if isinstance(capabilities, dict):
            self.capabilities = frozenset(name for name, has in capabilities.items() if has is True)
        username, password = credentials_from(method.mechanism, method.response)
        expected = self._credentials.get(username)
        if expected is None or not hmac.compare_digest(expected.encode(), password.encode()):
            raise LoginRefused(
                username, method.mechanism, "authentication_failure_close" in self.capabilities
            )
        self.username = username
        self._stage = self._on_tune_ok
        return Connection.Tune(
            self._limits.channels, self._limits.frame_bytes, self._limits.heartbeat_s
        )

    def _on_tune_ok(self, command: Command) -> None:
        method = _expect(command, Connection.TuneOk)
        frame_max = method.frame_max or self._limits.frame_bytes
        if not FRAME_MIN_SIZE <= frame_max <= self._limits.frame_bytes:
            raise AmqpError(
                530, f"NOT_ALLOWED - negotiated frame_max = {frame_max} is out of range"
            )
        self.frame_max, self.heartbeat_s = frame_max, method.heartbeat
        self._stage = self._on_open

    def _on_open(self, command: Command) -> base.Frame:
        method = _expect(command, Connection.Open)
        if method.virtual_host != "/":
            raise AmqpError(530, f"NOT_ALLOWED - vhost {method.virtual_host} not found", 10, 40)
        self.done = True
        return Connection.OpenOk()


def _expect(command: Command, kind: type[base.Frame]) -> Any:
    """Return the method of `command`. Raises `AmqpError` 503 if it is not of the expected kind."""
    if not isinstance(command.method, kind):
        raise AmqpError(503, f"COMMAND_INVALID - {command.method.name} out of turn")
    return command.method

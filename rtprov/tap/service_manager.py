"""Messages to the service manager that started this process, by systemd's protocol sd_notify(3).

systemd sets ``NOTIFY_SOCKET`` for a unit with ``Type=notify``, and ``WATCHDOG_USEC`` if the unit
has ``WatchdogSec=``. Without the former nothing is sent.

| message | sent |
|---|---|
| ``READY=1`` | when the role is ready for the first time |
| ``STATUS=`` | when the text has changed |
| ``RELOADING=1``, then ``READY=1`` | around a reload |
| ``STOPPING=1`` | when the stop begins |
| ``WATCHDOG=1`` | twice in each ``WATCHDOG_USEC``, by a timer of the reactor |
| ``EXTEND_TIMEOUT_USEC=`` | every 10 s while the process starts or stops |

The last two depend on a reactor that runs. So a process that waits for its broker may start for as
long as it takes, but one whose reactor is blocked is killed, whatever it is doing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

_log = Logger()
LOOK_EVERY_S = 1.0
BEAT_EVERY_S = 10.0
EXTEND_BY_S = 30.0


@attrs.frozen
class Condition:
    """Whether a role is ready, and the text that ``systemctl status`` shows for it."""

    ready: bool
    text: str


class Channel(Protocol):
    """Takes messages to the service manager."""

    def send(self, message: str) -> None:
        """Send a message: assignments, one on each line. Raises OSError if it cannot be sent."""

    def close(self) -> None:
        """Free the channel's resources."""


class NotifySocket:
    """Sends to the datagram socket at `address`: a path or, after ``@``, an abstract name.

    It never blocks: a message for which the manager's socket has no room is an error. The socket is
    opened with the first message, because twistd may fork before it.
    """

    def __init__(self, address: str) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None

    def send(self, message: str) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._socket.sendto(message.encode(), os.fsencode(self._address))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def notify_socket(environment: Mapping[str, str]) -> NotifySocket | None:
    """Return the channel that ``NOTIFY_SOCKET`` names; None if it is not set.

    Other addresses than Unix sockets, which a virtual machine may get, are not supported.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return None
    if address[0] not in "/@":
        _log.warn(
            "NOTIFY_SOCKET={address} is not the address of a Unix socket; the service manager gets"
            " no messages",
            address=address,
        )
        return None
    return NotifySocket(address)


def watchdog_s(environment: Mapping[str, str], process_id: int) -> float | None:
    """Return the seconds within which the watchdog of this process must be fed; None if it has
    none, or if the watchdog is meant for another process.
    """
    if environment.get("WATCHDOG_PID", str(process_id)) != str(process_id):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) else None


class ServiceManager:
    """Tells the service manager about this process. See the module's text for the messages.

    - `channel`: None if there is no service manager; then nothing is sent, and no timer runs.
    - `watchdog_s`: the seconds within which the watchdog must be fed; None without a watchdog.
    - `condition`: returns the present condition; it is called every second.
    - `monotonic`: returns seconds of the system's monotonic clock, by which the manager orders
      reloads. `clock` is that of the timers.
    """

    def __init__(
        self,
        channel: Channel | None,
        watchdog_s: float | None,
        *,
        condition: Callable[[], Condition],
        clock: IReactorTime,
        monotonic: Callable[[], float],
    ) -> None:
        self._channel = channel
        self._watchdog = watchdog_s is not None
        self._condition = condition
        self._monotonic = monotonic
        self._ready = self._stopping = self._failed = False
        self._text = ""
        self._looking = LoopingCall(self._look)
        self._beating = LoopingCall(self._beat)
        self._looking.clock = self._beating.clock = clock
        self._beat_every_s = min(BEAT_EVERY_S, (watchdog_s or 2 * BEAT_EVERY_S) / 2)

    def start(self) -> None:
        """Send the condition now and whenever it changes. Call it when all services have started.

        The role's own readiness may come later."""
        if self._channel is None:
            return
        for timer, every_s in ((self._beating, self._beat_every_s), (self._looking, LOOK_EVERY_S)):
            timer.start(every_s).addErrback(
                lambda reason: _log.failure(
                    "the service manager gets no further messages about this process", reason
                )
            )

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Tell the manager that files are loaded again, and afterwards that this is done."""
        # Before the first READY=1, the one at the end would be taken for it.
        told = self._ready and not self._stopping
        if told:
            self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._monotonic() * 1e6)}")
        try:
            yield
        finally:
            if told:
                # Without it the unit would stay in the state "reloading": the next look repeats it.
                self._ready = self._send("READY=1")

    def stopping(self) -> None:
        """Tell the manager that the process begins to stop. The watchdog is still fed."""
        self._stopping = True
        self._send("STOPPING=1")
        if self._looking.running:
            self._look()
            self._beat()

    def stop(self) -> None:
        """Send nothing more."""
        for timer in (self._looking, self._beating):
            if timer.running:
                timer.stop()
        if self._channel is not None:
            self._channel.close()

    def _look(self) -> None:
        condition = self._condition()
        text = " ".join(condition.text.split())  # a message has one line for each assignment
        becomes_ready = condition.ready and not self._ready and not self._stopping
        lines = ["READY=1"] if becomes_ready else []
        if text != self._text:
            lines.append(f"STATUS={text}")
        if lines and self._send(*lines):
            self._text, self._ready = text, self._ready or becomes_ready

    def _beat(self) -> None:
        lines = ["WATCHDOG=1"] if self._watchdog else []
        if self._stopping or not self._ready:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(EXTEND_BY_S * 1e6)}")
        if lines:
            self._send(*lines)

    def _send(self, *lines: str) -> bool:
        """Send these lines as one message; return whether that succeeded. Failures are logged once
        until a message is sent again.
        """
        if self._channel is None:
            return False
        try:
            self._channel.send("\n".join(lines))
        except OSError as error:
            if not self._failed:
                _log.warn(
                    "could not send a message to the service manager (NOTIFY_SOCKET): {error};"
                    " trying again",
                    error=error.strerror or error,
                )
            self._failed = True
            return False
        self._failed = False
        return True

"""Single keys of a terminal, without Enter."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from zope.interface import implementer

if TYPE_CHECKING:
    from types import TracebackType


@implementer(IReadDescriptor)
class Keyboard:
    """Calls `pressed` with each key, while it is used as a context.

    Does nothing if `stream` is no terminal. At the end the terminal is as it was before. Ctrl-C
    still sends SIGINT.
    """

    def __init__(self, reactor: Any, stream: IO[str], pressed: Callable[[str], None]) -> None:
        self._reactor = reactor if IReactorFDSet.providedBy(reactor) else None
        self._stream = stream
        self._pressed = pressed
        self._before: list[Any] | None = None

    def __enter__(self) -> Keyboard:
        if self._reactor is not None and self._stream.isatty():
            with suppress(ImportError):  # there is no termios on Windows
                import termios
                import tty

                self._before = termios.tcgetattr(self._stream)
                tty.setcbreak(self._stream)
                self._reactor.addReader(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            import termios

            self._remove()
            termios.tcsetattr(self._stream, termios.TCSADRAIN, self._before)

    def _remove(self) -> None:
        if self._reactor is not None:
            self._reactor.removeReader(self)

    # Called by Twisted.

    def fileno(self) -> int:
        return self._stream.fileno()

    def doRead(self) -> None:
        data = os.read(self._stream.fileno(), 100)
        if not data:
            self._remove()
        for key in data.decode("utf-8", "replace"):
            self._pressed(key)

    def connectionLost(self, reason: object) -> None:
        self._remove()

    def logPrefix(self) -> str:
        return "keyboard"

"""How long the reactor is busy: measured in every process, and logged if it is long.

While the reactor runs one thing, no other request is answered and no timer runs. `LagWatch` sets a
timer every `EVERY_S` seconds and measures how late it runs. A thread looks at what the reactor's
thread runs while the timer is late, so that the log can say it.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

EVERY_S = 0.1
LOGGED_FROM_S = 0.25
QUIET_S = 10.0  # after a log line
LOOKED_FROM_S = 0.1
LOOK_AGAIN_S = 0.05
MAX_NAMES = 4
REMEMBERED = 600  # measurements: those of the last minute

_log = Logger()


class Lookout(Protocol):
    """Finds out what runs while a timer is late."""

    def start(self) -> None:
        """Called in the reactor's thread."""

    def expect(self, in_s: float) -> None:
        """Forget what was seen. The next timer is due in `in_s` seconds."""

    def seen(self) -> str:
        """Return what ran since the timer was due, or an empty text."""

    def stop(self) -> None: ...


class LagWatch(Service):
    """Measures how late timers run, with the timers of `timers`.

    `current_s` is the latest measurement in seconds. `longest_s` is the largest one of the last
    minute. A turn of the reactor is at least as long as the lag that it causes, and at most
    `EVERY_S` longer.
    """

    def __init__(self, timers: IReactorTime, lookout: Lookout, gc_s: Callable[[], float]) -> None:
        """`gc_s` returns how many seconds the garbage collector has run so far."""
        self._timers = timers
        self._lookout = lookout
        self._gc_s = gc_s
        self._call: IDelayedCall | None = None
        self._gc_before_s = 0.0
        self._quiet_until = timers.seconds()
        self._unlogged: list[float] = []
        self._remembered: deque[float] = deque([0.0], maxlen=REMEMBERED)

    @property
    def current_s(self) -> float:
        return self._remembered[-1]

    @property
    def longest_s(self) -> float:
        return max(self._remembered)

    def startService(self) -> None:
        super().startService()
        self._lookout.start()
        self._expect()

    def stopService(self) -> None:
        super().stopService()
        self._lookout.stop()
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _expect(self) -> None:
        self._gc_before_s = self._gc_s()
        self._call = self._timers.callLater(
            EVERY_S, self._measure, self._timers.seconds() + EVERY_S
        )
        self._lookout.expect(EVERY_S)

    def _measure(self, due: float) -> None:
        self._remembered.append(max(0.0, self._timers.seconds() - due))
        if self.current_s > LOGGED_FROM_S:
            self._report()
        self._expect()

    def _report(self) -> None:
        now = self._timers.seconds()
        if now < self._quiet_until:
            self._unlogged.append(self.current_s)
            return
        self._quiet_until = now + QUIET_S
        unlogged, self._unlogged = self._unlogged, []
        _log.warn(
            "this process answered nothing for {seconds:.2f} s, because it was busy; garbage"
            " collection: {gc_s:.2f} s; what ran: {what}{more}",
            seconds=self.current_s,
            gc_s=self._gc_s() - self._gc_before_s,
            what=self._lookout.seen() or "unknown",
            more=f"; {len(unlogged)} more times since the last such line, for {max(unlogged):.2f} s"
            " at most"
            if unlogged
            else "",
        )


class GcTime:
    """Adds up the seconds in which the garbage collector runs. Call it to get the sum.

    `monotonic` returns seconds from any origin.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._sum_s = 0.0
        self._began = 0.0

    def __call__(self) -> float:
        return self._sum_s

    def watch(self) -> None:
        """Begin to measure. A second call does nothing."""
        if self._on_phase not in gc.callbacks:
            gc.callbacks.append(self._on_phase)

    def _on_phase(self, phase: str, info: Mapping[str, Any]) -> None:
        if phase == "start":
            self._began = self._monotonic()
        else:
            self._sum_s += self._monotonic() - self._began


class StackLookout:
    """A `Lookout` in a thread of its own, which reads the stack of the reactor's thread.

    It waits until the timer is `LOOKED_FROM_S` late, and then reads the stack every `LOOK_AGAIN_S`.
    `monotonic` returns seconds from any origin, `frames` the current frame of each thread.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        frames: Callable[[], Mapping[int, FrameType]] = sys._current_frames,
    ) -> None:
        self._monotonic = monotonic
        self._frames = frames
        self._stopped = threading.Event()
        self._watched = 0
        self._due = 0.0
        self._seen: Counter[str] = Counter()

    def start(self) -> None:
        self._watched = threading.get_ident()
        self.expect(EVERY_S)
        # A daemon thread: the process does not wait for it when it ends.
        threading.Thread(target=self._run, name="rtprov-lag", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def expect(self, in_s: float) -> None:
        self._due = self._monotonic() + in_s
        if self._seen:
            self._seen = Counter()

    def seen(self) -> str:
        most = self._seen.most_common(1)
        return most[0][0] if most else ""

    def _run(self) -> None:
        while not self._stopped.wait(self.look()):
            pass

    def look(self) -> float:
        """Read the stack if the timer is late. Return the seconds until the next look."""
        late_s = self._monotonic() - self._due
        if late_s < LOOKED_FROM_S:
            return LOOKED_FROM_S - late_s
        frame = self._frames().get(self._watched)
        if frame is not None:
            self._seen[describe(frame)] += 1
        return LOOK_AGAIN_S


def describe(frame: FrameType) -> str:
    """Return the innermost function of a stack, and the functions of rtprov below it.

    A function is shown with its module and line, and never with a value.
    """
    names: list[str] = []
    each: FrameType | None = frame
    while each is not None and len(names) < MAX_NAMES:
        module = each.f_globals.get("__name__", "?")
        if not names or module.startswith("rtprov."):
            names.append(f"{module}.{each.f_code.co_name}:{each.f_lineno}")
        each = each.f_back
    return " < ".join(names)

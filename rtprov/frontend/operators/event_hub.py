"""The live event stream: one stream from the workers, shared by all listeners of a front end.

Events are numbered. The latest ones are kept as encoded text, and each listener has only the number
of the last event that it got. So a listener costs little memory, one that reads slowly catches up,
and one that comes back goes on where it stopped. A listener that falls too far behind is cut off.

Listeners are written to in groups, one group in each turn of the reactor. So many listeners do not
delay other requests.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.frontend.schemas import task_document
from rtprov.http.responses import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from rtprov.frontend.operators.schemas import SummaryDocument
    from rtprov.frontend.operators.summary import Summaries
    from rtprov.interfaces import ShardReports
    from rtprov.reports import FoundTask

EVERY_S = 1.0
LONGEST_SILENCE_S = 15.0
MAX_TASKS = 50  # in a second; further ends are counted
MAX_KEPT = 1000  # events; at most about 2 MB
MAX_SENT = 20  # events in one piece
STALLED_AFTER = 30  # seconds
# The workers are followed for so long after the last listener has left: it may come back.
FOLLOW_ON_S = 60.0
MAX_LISTENERS = 2500
# Listeners that are written to in one turn of the reactor, and the pause before the next ones. So
# 4,000 are written to in a second. Events that come in the meantime are sent together.
GROUP = 50
PAUSE_S = 0.0125


class Listener(Protocol):
    """A client of the stream. `position` is the number of the last event that it got."""

    position: int

    @property
    def reads(self) -> bool:
        """Whether it can be written to now."""

    @property
    def admitted(self) -> bool:
        """Whether its credentials are still valid."""

    def send(self, data: bytes) -> None:
        """Send encoded events."""

    def end(self) -> None:
        """Close the stream."""


class EventHub:
    """The events of one front end, and their listeners.

    The workers are followed while there are listeners, and for `FOLLOW_ON_S` after the last one has
    left. `name` is a part of the ids of events, so that those of another process are not mistaken
    for this one's.
    """

    _log = Logger()

    def __init__(
        self, *, reports: ShardReports, summaries: Summaries, clock: IReactorTime, name: str
    ) -> None:
        self._reports = reports
        self._summaries = summaries
        self._clock = clock
        self._name = name
        # For how many seconds each of them has read nothing.
        self._listeners: dict[Listener, int] = {}
        # Those that have not got the latest events; an ordered set.
        self._due: dict[Listener, int] = {}
        self._writing: IDelayedCall | None = None
        self._events: list[bytes] = []
        self._newest = 0  # the number of the last event
        self._summary: SummaryDocument | None = None  # the one that was sent last
        self._summary_at = 0.0
        self._asking: Deferred[None] | None = None
        self._tasks = self._skipped = 0  # in the present second
        self._stop_following: Callable[[], None] = lambda: None
        self._ticking: LoopingCall | None = None
        # Whether the last tick, and the last report of ends, ended with an internal error.
        self._failing = self._ends_failing = False
        self._pausing: IDelayedCall | None = None  # while the workers are followed for no listener
        self._stopped = False

    @property
    def listeners(self) -> int:
        """The number of listeners."""
        return len(self._listeners)

    @property
    def full(self) -> bool:
        """Whether no further listener may come."""
        return self._stopped or len(self._listeners) >= MAX_LISTENERS

    # Listeners.

    def add(self, listener: Listener, last_event_id: str | None) -> None:
        """Send the events after the one with this id, if it is still kept, and all later ones.

        A new listener gets the present summary first.
        """
        missed = self._missed(last_event_id)
        listener.position = self._newest - missed
        self._listeners[listener] = 0
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
            self._ask()
        elif self._ticking is None:
            self._begin()
        elif not missed and self._summary is not None:
            listener.send(self._encoded("summary", encode(self._summary)))
        self.resume(listener)

    def remove(self, listener: Listener) -> None:
        """Forget a listener, because its connection is closed."""
        self._listeners.pop(listener, None)
        self._due.pop(listener, None)
        if not self._listeners and self._ticking is not None and self._pausing is None:
            self._pausing = self._clock.callLater(FOLLOW_ON_S, self._pause)
            self._forget_summary()

    def resume(self, listener: Listener) -> None:
        """The listener can be written to again."""
        if listener in self._listeners and listener.position < self._newest:
            self._due[listener] = 0
            self._write_soon()

    def stop(self) -> None:
        """Close all streams for good, because the front end stops."""
        self._stopped = True
        for listener in list(self._listeners):
            listener.end()
            self.remove(listener)
        if self._pausing is not None:
            self._pausing.cancel()
            self._pause()

    def _missed(self, last_event_id: str | None) -> int:
        """Return how many events came after the one with this id; 0 if that is not known."""
        name, _, number = (last_event_id or "").rpartition("-")
        if name != self._name or not (number.isascii() and number.isdigit()):
            return 0
        return max(0, self._newest - int(number[:18]))

    # Writing.

    def _write_soon(self, pause_s: float = 0.0) -> None:
        if self._due and self._writing is None:
            self._writing = self._clock.callLater(pause_s, self._write)

    def _write(self) -> None:
        group = list(islice(self._due, GROUP))
        for listener in group:
            del self._due[listener]
            if listener.reads:
                self._send(listener)
                if listener in self._listeners and listener.position < self._newest:
                    self._due[listener] = 0
        self._writing = None
        self._write_soon(PAUSE_S)

    def _send(self, listener: Listener) -> None:
        """Send the next events that the listener has not got, or the number of those that are not
        kept any more.
        """
        kept = min(self._newest - listener.position, len(self._events))
        lost = self._newest - listener.position - kept
        begin = len(self._events) - kept
        events = self._events[begin : begin + MAX_SENT]
        listener.position += lost + len(events)
        listener.send(b"".join([*_skipped(lost), *events]))

    def _cut_off_the_refused(self) -> None:
        """Close the streams of listeners whose token is removed, or whose session has ended."""
        for listener in [each for each in self._listeners if not each.admitted]:
            listener.end()
            self.remove(listener)

    def _cut_off_the_slow(self) -> None:
        """Close the streams of listeners that do not read, with the number of missed events."""
        for listener, stalled in list(self._listeners.items()):
            if listener.reads:
                self._listeners[listener] = 0
                continue
            missed = self._newest - listener.position
            self._listeners[listener] = stalled + 1
            if stalled >= STALLED_AFTER or missed > len(self._events):
                listener.send(b"".join(_skipped(missed)))
                listener.end()
                self.remove(listener)

    # Events.

    def _publish(self, kind: str, data: bytes) -> None:
        self._newest += 1
        self._events.append(self._encoded(kind, data))
        if len(self._events) >= 2 * MAX_KEPT:
            del self._events[:MAX_KEPT]
        self._due.update(self._listeners)
        self._write_soon()

    def _encoded(self, kind: str, data: bytes) -> bytes:
        return b"id: %s-%d\n%s" % (self._name.encode(), self._newest, _event(kind, data))

    def _begin(self) -> None:
        self._stop_following = self._reports.follow(self._on_ends)
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = self._clock
        self._ticking.start(EVERY_S)  # never fails, since `_tick` does not

    def _pause(self) -> None:
        """Stop following the workers, because there are no listeners."""
        self._pausing = None
        self._stop_following()
        self._stop_following = lambda: None
        if self._ticking is not None:
            self._ticking.stop()
            self._ticking = None
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _forget_summary(self) -> None:
        """Ask for no summary until there is a listener again. It gets a new one first."""
        self._summary = None
        if self._asking is not None:
            self._asking.cancel()

    def _tick(self) -> None:
        """Do what is due in this second. An internal error is logged once, until it is over."""
        try:
            self._each_second()
        except Exception:
            if not self._failing:
                self._log.failure("internal error in the event stream; trying again each second")
            self._failing = True
        else:
            self._failing = False

    def _each_second(self) -> None:
        self._tasks = 0
        skipped, self._skipped = self._skipped, 0
        if skipped:
            self._publish("skipped", encode({"count": skipped}))
        self._cut_off_the_refused()
        self._cut_off_the_slow()
        self._ask()

    def _ask(self) -> None:
        """Ask for the summary, if there are listeners."""
        if self._asking is None and self._listeners:
            asking = self._asking = self._summaries.current().addCallback(self._on_summary)
            asking.addErrback(self._on_no_summary)
            asking.addCallback(self._asked)

    def _asked(self, _: object) -> None:
        self._asking = None

    def _on_no_summary(self, reason: Failure) -> None:
        if not reason.check(CancelledError):
            self._log.failure("the event stream has no summary; asking again", reason)

    def _on_summary(self, document: SummaryDocument) -> None:
        before, now = self._summary, self._clock.seconds()
        if before is not None:
            if document.equipment.state is not before.equipment.state:
                self._publish("equipment", encode(document.equipment))
            if document.dispatch != before.dispatch:
                self._publish("dispatch", encode({"dispatch": document.dispatch}))
            if document == before and now - self._summary_at < LONGEST_SILENCE_S - EVERY_S:
                return
        self._summary, self._summary_at = document, now
        self._publish("summary", encode(document))

    def _on_ends(self, tasks: Sequence[FoundTask], skipped: int) -> None:
        """Tasks have ended: `tasks`, and `skipped` others.

        An end that cannot be sent because of an internal error counts as skipped. The error is
        logged once, until a report has none.
        """
        self._skipped += skipped
        failed = False
        for task in tasks:
            try:
                self._on_end(task)
            except Exception:
                self._skipped += 1
                if not (failed or self._ends_failing):
                    self._log.failure("internal error: ends of tasks are left out of the stream")
                failed = True
        self._ends_failing = failed

    def _on_end(self, task: FoundTask) -> None:
        if self._tasks < MAX_TASKS:
            self._tasks += 1
            self._publish("task", encode(task_document(task.details)))
        else:
            self._skipped += 1


def _event(kind: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)


def _skipped(count: int) -> list[bytes]:
    return [_event("skipped", encode({"count": count}))] if count else []

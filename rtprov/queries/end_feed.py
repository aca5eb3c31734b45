"""The worker's part of the event stream: reports the ends of tasks to front ends that follow them.

A `Watches` reports the ends of certain tasks, each for a client that waits. An `EndFeed` reports
all ends of a shard, but not more than a person or a page can use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define

from rtprov.messaging.report_messages import EndsAsked, encode_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.amqp.client.rpc import Reply
    from rtprov.interfaces import TaskReports

REPORT_EVERY_S = 0.2
MAX_TASKS = 10  # in one report, so 50 in a second
LONGEST_S = 60.0
MAX_FOLLOWERS = 100


@define(eq=False)
class _Follower:
    reply: Reply
    timer: IDelayedCall


class EndFeed:
    """The ends of one shard's tasks, reported by its active worker five times a second.

    A report has ten tasks, and the number of others that ended since the last one. `wall_clock`
    gives seconds since the epoch.
    """

    def __init__(
        self, *, reports: TaskReports, clock: IReactorTime, wall_clock: Callable[[], float]
    ) -> None:
        self._reports = reports
        self._clock = clock
        self._wall_clock = wall_clock
        self._followers: dict[str, _Follower] = {}
        self._ended: list[str] = []
        self._skipped = 0
        self._timer: IDelayedCall | None = None
        reports.on_end(self._on_end)

    def begin(self, question: EndsAsked, reply: Reply) -> None:
        """Report ends with `reply`, for as long as the question says."""
        self._end(question.follower)
        if len(self._followers) >= MAX_FOLLOWERS:
            return
        wait_s = min(max(question.wait, 0.0), LONGEST_S)
        timer = self._clock.callLater(wait_s, self._followers.pop, question.follower)
        self._followers[question.follower] = _Follower(reply, timer)

    def end_all(self) -> None:
        """Forget all followers, because the connection is closed."""
        for name in list(self._followers):
            self._end(name)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ended, self._skipped = [], 0

    def _end(self, name: str) -> None:
        follower = self._followers.pop(name, None)
        if follower is not None:
            follower.timer.cancel()

    def _on_end(self, task_id: str) -> None:
        if not self._followers:
            return
        if len(self._ended) < MAX_TASKS:
            self._ended.append(task_id)
        else:
            self._skipped += 1
        if self._timer is None:
            self._timer = self._clock.callLater(REPORT_EVERY_S, self._report)

    def _report(self) -> None:
        self._timer = None
        now = self._wall_clock()
        found = [self._reports.found(task_id, now) for task_id in self._ended]
        report = encode_ends([each for each in found if each is not None], self._skipped)
        self._ended, self._skipped = [], 0
        for follower in list(self._followers.values()):
            follower.reply(report)

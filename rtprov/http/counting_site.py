"""A site that counts the requests in progress, so that a stop can wait for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from rtprov.http.refusals import Refusals
from rtprov.http.site import IDLE_TIMEOUT_S, JsonSite
from rtprov.http.traffic import Traffic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.resource import IResource
    from twisted.web.server import Request

    from rtprov.http.admission import Admission


class CountingSite(JsonSite):
    """Counts the requests in progress in `under_way`."""

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        admission: Admission | None = None,
        refusals: Refusals | None = None,
        traffic: Traffic | None = None,
        timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        super().__init__(
            resource,
            reactor=reactor,
            admission=admission,
            refusals=refusals,
            traffic=traffic,
            timeout_s=timeout_s,
        )
        self.under_way = 0
        self._waiting: list[Deferred[None]] = []

    def when_idle(self) -> Deferred[None]:
        """Fire when the last request in progress ends; not before that if there is none now."""
        idle: Deferred[None] = Deferred()
        self._waiting.append(idle)
        return idle

    def getResourceFor(self, request: Request) -> IResource:
        self.request_begins()
        request.notifyFinish().addBoth(lambda _: self.request_ends())
        return super().getResourceFor(request)

    def request_begins(self) -> None:
        self.under_way += 1

    def request_ends(self) -> None:
        self.under_way -= 1
        if not self.under_way:
            waiting, self._waiting = self._waiting, []
            for idle in waiting:
                if not idle.called:
                    idle.callback(None)

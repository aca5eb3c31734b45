"""A fake journal whose barriers a test completes."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from rtprov.model import Event


@define(eq=False)
class HeldJournal:
    """A journal that accepts events at once. The test fires the Deferreds in `barriers`."""

    barriers: list[Deferred[None]] = field(factory=list)
    error: Exception | None = None

    def append(self, event: Event) -> Deferred[None]:
        return succeed(None)

    def append_message(self, body: bytes) -> Deferred[None]:
        return succeed(None)

    def barrier(self) -> Deferred[None]:
        if self.error is not None:
            return fail(self.error)
        self.barriers.append(Deferred())
        return self.barriers[-1]

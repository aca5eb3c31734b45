"""A virtual clock that runs one turn of the reactor at a time."""

from __future__ import annotations

from twisted.internet.task import Clock


class TurnClock(Clock):
    """Twisted's `Clock.advance` also runs calls that become due during it. `turn` does not, just
    as the reactor runs them in its next turn.
    """

    def turn(self) -> None:
        """Run the calls that are due now."""
        now = self.seconds()
        for call in [each for each in self.calls if each.getTime() <= now]:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)

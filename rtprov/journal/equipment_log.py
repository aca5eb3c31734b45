"""What the journal says of service A."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtprov.model import EquipmentState

if TYPE_CHECKING:
    from rtprov.model import Active, Postponed


class EquipmentLog:
    """What the journal says of service A: since when it is in its state, and the last error.

    `since` is None until a worker has reported a state. `last_error` is the reason why the latest
    call did not reach A; None if A has recovered since: it has answered a call, and is not in
    trouble.
    """

    def __init__(self) -> None:
        self.state = EquipmentState.CLOSED
        self.since: float | None = None
        self.last_error: str | None = None

    def reported(self, event: Active) -> None:
        """A worker reports the state of its circuit breaker."""
        if self.since is None or event.equipment is not self.state:
            if self.state is not EquipmentState.CLOSED and event.equipment is EquipmentState.CLOSED:
                self.last_error = None
            self.state, self.since = event.equipment, event.at

    def failed(self, event: Postponed) -> None:
        """A call did not reach A."""
        self.last_error = event.reason

    def answered(self) -> None:
        """A call has ended with an answer of A."""
        if self.state is EquipmentState.CLOSED:
            self.last_error = None

"""The journal's barrier, before a worker answers a question that needs one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import TimeoutError

from rtprov.errors import NoReply

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from rtprov.interfaces import Journal

BARRIER_DEADLINE_S = 1.8


async def pass_barrier(journal: Journal, clock: IReactorTime) -> None:
    """Wait until the replica has every event that was confirmed before this call.

    Raises `BrokerError`; `NoReply` if that takes longer than `BARRIER_DEADLINE_S`.
    """
    try:
        await journal.barrier().addTimeout(BARRIER_DEADLINE_S, clock)
    except TimeoutError:
        raise NoReply(f"it did not pass within {BARRIER_DEADLINE_S:g} s") from None

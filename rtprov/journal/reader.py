"""Read single messages of a journal again, by their offsets."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred, TimeoutError

from rtprov.amqp.client.consumer import cancel, consume
from rtprov.errors import BrokerError, BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from twisted.internet.interfaces import IReactorTime

    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.delivery import Delivery
    from rtprov.amqp.client.protocol import AmqpConnection

PREFETCH = 200
ACK_EVERY = 100
WIDEST_GAP = 2000  # offsets that are closer are read in one go, with the messages between them
DEADLINE_S = 60.0  # for one such range


class JournalReader:
    """Reads the stream `name` with consumers of its own."""

    def __init__(self, *, name: str, clock: IReactorTime) -> None:
        self._name = name
        self._clock = clock

    async def read(self, connection: AmqpConnection, offsets: Iterable[int]) -> dict[int, Delivery]:
        """Return the messages at these offsets, except those that the broker has deleted.

        Raises `BrokerError`, also if the broker takes too long.
        """
        found: dict[int, Delivery] = {}
        stretches = _neighbours(sorted(set(offsets)))
        if not stretches:
            return found
        channel = await connection.open_channel(fatal=False)
        try:
            for stretch in stretches:
                await self._read(channel, stretch, found)
        finally:
            if not channel.closed:
                with suppress(BrokerError):
                    await channel.channel_close(reply_code=200, reply_text="done")
        return found

    async def _read(
        self, channel: AmqpChannel, stretch: Sequence[int], found: dict[int, Delivery]
    ) -> None:
        wanted, done, came = frozenset(stretch), Deferred[None](), 0

        def on_delivery(delivery: Delivery) -> None:
            nonlocal came
            came += 1
            if came % ACK_EVERY == 0:
                channel.ack_all(delivery)
            offset = cast("int", delivery.headers["x-stream-offset"])
            if offset in wanted:
                found[offset] = delivery
            if offset >= stretch[-1] and not done.called:
                done.callback(None)

        def on_closed(reason: BrokerError) -> None:
            if not done.called:
                done.errback(reason)

        tag = await consume(
            channel,
            self._name,
            on_delivery,
            prefetch=PREFETCH,
            arguments={"x-stream-offset": stretch[0]},
        )
        channel.on_closed(on_closed)
        try:
            await done.addTimeout(DEADLINE_S, self._clock)
        except TimeoutError:
            raise BrokerUnavailable(
                f"{self._name} did not deliver offset {stretch[-1]} within {DEADLINE_S:.0f} s"
            ) from None
        await cancel(channel, tag)


def _neighbours(offsets: Sequence[int]) -> list[list[int]]:
    """Group sorted offsets: neighbours that are at most `WIDEST_GAP` apart are in one group."""
    stretches: list[list[int]] = []
    for offset in offsets:
        if stretches and offset - stretches[-1][-1] <= WIDEST_GAP:
            stretches[-1].append(offset)
        else:
            stretches.append([offset])
    return stretches

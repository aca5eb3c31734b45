"""Look at a broker for ``rtprov doctor``: log in, and read what rtprov has stored there."""

from __future__ import annotations

from pathlib import Path

from rtprov.amqp.client.url import BrokerUrl
from rtprov.messaging.shard_count import Remembered, queue_counts, read
from rtprov.messaging.topology import PARKED_QUEUE, Shard
from rtprov.tap.broker_command import close, connect
from rtprov.tap.client_connections import install_names


async def look_at_broker(text: str, ca: Path) -> str:
    """Return what was found at the broker with this URL.

    Nothing is changed there. Raises `ConfigurationError` or `BrokerError`.
    """
    url = BrokerUrl.parse(text)
    install_names()
    connection, _ = await connect(url, ca, None)
    try:
        known = await read(connection, Remembered(1))
        if known is None:
            return f"{url} accepts the log-in; rtprov has not run on it"
        without = []
        for index in range(known.count):
            counts = await queue_counts(connection, Shard(index, known.count).work)
            if counts is None or not counts[1]:
                without.append(str(Shard(index, known.count)))
        parked = await queue_counts(connection, PARKED_QUEUE)
    finally:
        await close(connection)
    words = f"{url} accepts the log-in; {known.count} shards"
    if without:
        words += f"; no worker on {', '.join(without)}"
    return words + (f"; {parked[0]} parked letters" if parked and parked[0] else "")

"""Make the first sealing key, but only if the broker has never had a task.

If the broker has tasks, they were sealed with a key that exists elsewhere. A new key would not open
them, and would hide that the configured path of the key file is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred

from rtprov.amqp.client.consumer import consume
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.service import Session
from rtprov.errors import AmqpError, ConfigurationError, UndecodableMessage
from rtprov.messaging.environment import Environment
from rtprov.messaging.event_batches import events_in
from rtprov.messaging.event_messages import decode_event, encode_event
from rtprov.messaging.topology import (
    TASKS_EXCHANGE,
    Shard,
    persistent,
)
from rtprov.model import Cancelled, Finished, Marker, Postponed, Requested, Started, Withheld

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtprov.amqp.client.channel import AmqpChannel
    from rtprov.amqp.client.delivery import Delivery
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.publisher import Publisher

PREFETCH = 500
ACCESS_REFUSED, NOT_FOUND = 403, 404
OF_TASKS = (Requested, Started, Postponed, Withheld, Cancelled, Finished)


class KeySource(Protocol):
    """The key file; see `rtprov.security.key_file.KeyFile`."""

    @property
    def path(self) -> Path: ...

    def found(self) -> bool:
        """Return whether there are keys; load them if the file exists now.

        Raises `ConfigurationError`.
        """

    def make(self) -> None:
        """Create the file with a new key. Raises `ConfigurationError`."""


class FirstKey:
    """Makes sure that there is a sealing key.

    A session of a role's connection; attach it after topology and publisher, and before the
    sessions that need the key. It looks at all `shards` shards. `new_marker_id` returns an id that
    no other process has.
    """

    def __init__(
        self,
        *,
        source: KeySource,
        shards: int,
        publisher: Publisher,
        new_marker_id: Callable[[], str],
    ) -> None:
        self._source = source
        self._count = shards
        self._publisher = publisher
        self._new_marker_id = new_marker_id

    async def attach(self, connection: AmqpConnection) -> None:
        """Look for the keys, or make the first one; done once there are keys.

        Raises `ConfigurationError` if there is no key file and the broker has tasks, and
        `BrokerError`.
        """
        if self._source.found():
            return
        for shard in (Shard(index, self._count) for index in range(self._count)):
            queue = await self._holding_tasks(connection, shard)
            # Another role may have made the file in the meantime, and accepted a task.
            if self._source.found():
                return
            if queue is not None:
                raise ConfigurationError(
                    f"{self._source.path} is missing, and {queue} holds tasks that are sealed with"
                    " a key, so no new key was made. Restore the file from a backup, copy it from"
                    " another front end or worker, or correct --certs or --seal-keys"
                )
        self._source.make()

    def detach(self) -> None:
        """Do nothing."""

    async def _holding_tasks(self, connection: AmqpConnection, shard: Shard) -> str | None:
        """Return the name of a queue or journal of the shard that has or had a task, else None."""
        try:
            return await self._look_at(await connection.open_channel(), shard)
        except AmqpError as error:
            if error.reply_code == NOT_FOUND:  # the shard is not declared yet
                return None
            if error.reply_code == ACCESS_REFUSED:
                raise ConfigurationError(
                    f"{self._source.path} is missing, and the broker's user has no permission to"
                    f" read {shard.journal}, which may have tasks; no new key was made. Give this"
                    " role the key file of the other roles"
                ) from None
            raise

    async def _look_at(self, channel: AmqpChannel, shard: Shard) -> str | None:
        for queue in (shard.work, shard.dead):
            if (await channel.queue_declare(queue=queue, passive=True)).message_count:
                return queue
        end = Marker(self._new_marker_id())
        read: Deferred[bool] = Deferred()

        def look(delivery: Delivery) -> None:
            delivery.ack()
            try:
                events = [decode_event(message) for message in events_in(delivery.body)]
            except UndecodableMessage:
                return
            for event in events:
                if not read.called and (event == end or isinstance(event, OF_TASKS)):
                    read.callback(event != end)

        channel.on_closed(lambda reason: None if read.called else read.errback(reason))
        await consume(
            channel, shard.journal, look, prefetch=PREFETCH, arguments={"x-stream-offset": "first"}
        )
        await self._publisher.publish(
            TASKS_EXCHANGE,
            shard.event_key,
            encode_event(end),
            properties=persistent(),
            mandatory=True,
        )
        held = await read
        await channel.channel_close(reply_code=200, reply_text="done")
        return shard.journal if held else None


def first_key_sessions(
    source: KeySource | None, shards: int, publisher: Publisher, environment: Environment
) -> list[Session]:
    """Return the sessions that make sure that there is a sealing key; none without a `source`."""
    return (
        []
        if source is None
        else [
            FirstKey(
                source=source, shards=shards, publisher=publisher, new_marker_id=environment.new_id
            )
        ]
    )

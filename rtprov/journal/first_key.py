"""Who may make the sealing key: only a role that finds no key file, on a broker that has never
taken a task.

Where the broker holds tasks, they are sealed with a key that exists somewhere: a new one would only
hide that this role looks for it in the wrong place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred

from rtprov.amqp.client.consumer import consume
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.service import Session
from rtprov.errors import AmqpError, ConfigurationError, UndecodableMessage
from rtprov.messaging.environment import Environment
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
    """Where the keys come from; see `rtprov.security.key_file.KeyFile`."""

    @property
    def path(self) -> Path: ...

    def found(self) -> bool:
        """Whether there are keys; they are loaded where the file has come meanwhile. Raises
        `ConfigurationError`.
        """

    def make(self) -> None:
        """Make the file, with a new key. Raises `ConfigurationError`."""


class FirstKey:
    """A session of a role's connection: attach it after topology and publisher, and before whatever
    seals or opens.

    `shards` is how many there are: all are looked at. `new_marker_id` makes ids that no other
    process makes."""

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
        """Done once there are keys. Raises `ConfigurationError` where there is none and none may be
        made, `BrokerError`.
        """
        if self._source.found():
            return
        for shard in (Shard(index, self._count) for index in range(self._count)):
            queue = await self._holding_tasks(connection, shard)
            # another role has made the file meanwhile, and perhaps taken a task
            if self._source.found():
                return
            if queue is not None:
                raise ConfigurationError(
                    f"{self._source.path} is missing, and {queue} holds tasks that are sealed with"
                    " a key: no new key is made. Restore the file from the backup, or copy it from"
                    " another front end or worker, or correct --certs or --seal-keys"
                )
        self._source.make()

    def detach(self) -> None:
        """The connection is gone: nothing to undo."""

    async def _holding_tasks(self, connection: AmqpConnection, shard: Shard) -> str | None:
        """The name of a queue or journal of the shard that holds, or held, a task; None without
        one.
        """
        try:
            return await self._look_at(await connection.open_channel(), shard)
        except AmqpError as error:
            if error.reply_code == NOT_FOUND:  # the shard has not been declared yet
                return None
            if error.reply_code == ACCESS_REFUSED:
                raise ConfigurationError(
                    f"{self._source.path} is missing, and the broker's user may not read"
                    f" {shard.journal}, so it cannot be known whether there are tasks: no new key"
                    " is made. Give this role the key file of the others"
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
                event = decode_event(delivery.body)
            except UndecodableMessage:
                return
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
    """What sees to it that there is a sealing key, where it may have to be made."""
    return (
        []
        if source is None
        else [
            FirstKey(
                source=source, shards=shards, publisher=publisher, new_marker_id=environment.new_id
            )
        ]
    )

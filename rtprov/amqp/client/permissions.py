"""Check and explain the broker user's permissions.

RabbitMQ gives a user three permissions in a virtual host: configure, write and read. Each is a
pattern of names (https://www.rabbitmq.com/docs/access-control). When one is missing, RabbitMQ
replies 403. RabbitMQ 4 names the missing permission in the reply, RabbitMQ 3 does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pamqp import base
from pamqp.commands import Basic, Exchange, Queue

from rtprov.errors import AmqpError, BrokerError

if TYPE_CHECKING:
    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.publisher import Publisher

PROBE_KEY = "rtprov.probe"  # bound to no queue: the broker confirms the message and discards it
_ACCESS_REFUSED = 403
_REFUSED = re.compile(r"(?:(configure|write|read) )?access to (queue|exchange) '")
# For each method: the permission it needs on the queue and on the exchange that it names. Declaring
# a queue with a dead-letter exchange also needs the read permission on the queue.
_NEEDED: dict[type[base.Frame], tuple[str, str]] = {
    Queue.Declare: ("configure (or, for a queue with dead letters, read)", "write"),
    Queue.Bind: ("write", "read"),
    Queue.Unbind: ("write", "read"),
    Queue.Delete: ("configure", ""),
    Exchange.Declare: ("", "configure"),
    Basic.Consume: ("read", ""),
    Basic.Get: ("read", ""),
    Basic.Publish: ("", "write"),
}
_BY_INDEX = {method.index: needed for method, needed in _NEEDED.items()}


def missing_permission(error: BaseException | None) -> str | None:
    """Return a hint for the log that names the missing permission.

    Returns None if `error` is not a 403 about a permission.
    """
    if not isinstance(error, AmqpError) or error.reply_code != _ACCESS_REFUSED:
        return None
    refused = _REFUSED.search(error.reply_text)
    if refused is None:
        return None
    permission, kind = refused.groups()
    needed = (
        permission
        or _BY_INDEX.get(error.class_id << 16 | error.method_id, ("", ""))[kind == "exchange"]
    )
    return (
        f'the user needs the {needed} permission on it; see "permissions" in docs/operations.md'
        if needed
        else None
    )


class MayPublish:
    """A session that checks the permission to publish to each of `exchanges`.

    It publishes an empty message to each, with a routing key that is bound to no queue. So a
    missing permission is found when the process connects, and not with the first task of a client.
    Attach it after `publisher`.
    """

    def __init__(self, publisher: Publisher, exchanges: Sequence[str]) -> None:
        self._publisher = publisher
        self._exchanges = tuple(exchanges)

    async def attach(self, connection: AmqpConnection) -> None:
        """Publish the test messages and wait for their confirms.

        Also returns if the broker accepts no messages at present. Raises `BrokerError` if it
        refuses them.
        """
        channel = self._publisher.channel
        for exchange in self._exchanges:
            try:
                await self._publisher.publish(
                    exchange, PROBE_KEY, b"", properties=Basic.Properties(), mandatory=False
                )
            except BrokerError:
                if channel is not None and channel.reason is not None:
                    raise channel.reason from None

    def detach(self) -> None:
        """Do nothing: there is nothing to undo."""

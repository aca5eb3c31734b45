"""What the broker lets our user do: which permission a 403 is for, and a look, on each connection,
whether we may publish at all.

RabbitMQ gives a user three permissions in a virtual host, for configure, write and read, each a
pattern of names (https://www.rabbitmq.com/docs/access-control). RabbitMQ 4 says which one is
missing, 3 does not."""

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

PROBE_KEY = "rtprov.probe"  # of no queue: the broker confirms the message and forgets it
_ACCESS_REFUSED = 403
_REFUSED = re.compile(r"(?:(configure|write|read) )?access to (queue|exchange) '")
# By the method's numbers, for the queue and for the exchange that it names. A queue with dead
# letters is also read when it is declared.
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
    """Which permission is missing, for the log; None if `error` is not the broker's refusal of
    one.
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
    """A session, after its publisher's: a missing permission to publish is noticed at once, not
    with a client's first task.

    It publishes an empty message for no queue to each of `exchanges`.
    """

    def __init__(self, publisher: Publisher, exchanges: Sequence[str]) -> None:
        self._publisher = publisher
        self._exchanges = tuple(exchanges)

    async def attach(self, connection: AmqpConnection) -> None:
        """Done when the broker has confirmed the messages, or takes none at present. Raises
        `BrokerError` where it refuses them.
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
        """Nothing to undo."""

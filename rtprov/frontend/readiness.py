"""The readiness check of a front end.

A front end is ready if its broker confirms messages, a worker answers for each shard, and the
workers have the front end's sealing key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from rtprov.amqp.client.gathering import gather
from rtprov.errors import BrokerError, NotReady
from rtprov.messaging.probe import PROBE_DEADLINE_S, broker_confirms
from rtprov.messaging.status_messages import encode_status_request
from rtprov.messaging.topology import STATUS_EXCHANGE, Shard
from rtprov.readiness import Readiness

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from rtprov.amqp.client.publisher import Publisher
    from rtprov.amqp.client.rpc import RpcClient
    from rtprov.queries.shared_keys import SharedKeys


def readiness_of_frontend(
    publisher: Publisher, rpc: RpcClient, shards: int, keys: SharedKeys, clock: IReactorTime
) -> Readiness:
    """Return the check for a front end of `shards` shards.

    It fails with `NotReady` if the broker does not confirm a message, if no worker answers for some
    shard, or if the workers that answer do not have the sealing key.
    """
    queues = [Shard(index, shards).status for index in range(shards)]

    async def probe() -> None:
        asked = [
            broker_confirms(publisher, clock),
            *(_worker_answers(rpc, queue) for queue in queues),
            keys.check(),
        ]
        await gather(Deferred.fromCoroutine(each) for each in asked)

    return Readiness(probe, clock)


async def _worker_answers(rpc: RpcClient, key: str) -> None:
    try:
        await rpc.call(
            key,
            encode_status_request([], barrier=False),
            exchange=STATUS_EXCHANGE,
            timeout_s=PROBE_DEADLINE_S,
        )
    except BrokerError:
        raise NotReady(f"Not ready: no worker answers on {key}") from None

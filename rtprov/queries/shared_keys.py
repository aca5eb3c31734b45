"""Check that the workers have the front end's sealing key, before tasks are sealed with it.

Front ends and workers compare the ids of their keys through the broker. A worker answers
`rtprov.messaging.query_messages.KeysAsked` with the ids of its keys. A front end asks all workers
of its shards when it connects, when its own keys change, for its readiness check, and every two
seconds. While no worker has its key, or none answers, it asks every second. A POST uses the latest
result and does not wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import Logger

from rtprov.errors import (
    BrokerError,
    BrokerUnavailable,
    KeyNotShared,
    NotReady,
    RtprovError,
    UndecodableMessage,
    Unroutable,
)
from rtprov.messaging.query_messages import KeysAsked, decode_keys, encode
from rtprov.messaging.topology import STATUS_EXCHANGE, Shard

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from rtprov.amqp.client.protocol import AmqpConnection
    from rtprov.amqp.client.rpc import RpcClient
    from rtprov.interfaces import Sealer

ANSWERS_WITHIN_S = 1.0
COMPARE_EVERY_S = 2.0
# While no worker has the key, or none answers. A readiness check uses a result that is younger than
# this.
RECHECK_S = 1.0
# The longest interval while workers do not answer; the interval doubles up to it. A worker of an
# earlier version logs an error for each question.
WHILE_SILENT_S = 60.0


class SharedKeys:
    """Compares the front end's first sealing key with the keys of the workers.

    A session of the front end's connection; attach it after the `RpcClient`. The result for a shard
    is one of these:

    - A worker has the key. Tasks are accepted.
    - Workers have answered, and none of them has the key. Tasks are refused.
    - No worker is connected, or the workers are of an earlier version, which does not answer. Tasks
      are accepted.

    Before the first comparison, which takes a second at most, all tasks are refused.
    """

    _log = Logger()

    def __init__(self, *, rpc: RpcClient, sealer: Sealer, shards: int, clock: IReactorTime) -> None:
        self._rpc = rpc
        self._sealer = sealer
        self._shards = [Shard(index, shards) for index in range(shards)]
        self._clock = clock
        # By shard: the front end's key, if none of the shard's workers has it. None before the
        # first comparison.
        self._refused: dict[int, str] | None = None
        self._logged: str | None = None  # the refused key that was logged last
        self._connection: AmqpConnection | None = None
        self._comparing: Deferred[None] | None = None
        self._again = False
        self._compared_at = clock.seconds()
        self._spoken: set[Shard] = set()  # shards of which a worker has ever answered
        # Some shard has workers, and none of them has ever answered.
        self._silent = False
        self._answered = False  # in the latest comparison, a worker answered for each shard
        self._pause_s = RECHECK_S
        self._next: IDelayedCall | None = None
        sealer.watch(self._soon)

    async def attach(self, connection: AmqpConnection) -> None:
        """Compare for the first time; done within about a second. Raises `BrokerError`."""
        self._connection = connection
        self._soon()
        if self._comparing is not None:
            await _once(self._comparing)

    def detach(self) -> None:
        """Stop comparing, because the connection is closed. The latest results stay in use."""
        self._connection = None
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._comparing is not None:
            self._comparing.cancel()

    def refusal(self, shard: int, key: str | None) -> RtprovError | None:
        """Return the error if tasks sealed with `key` must not be sent to the shard, else None."""
        if self._refused is None:
            return BrokerUnavailable("The front end is not connected to the broker yet")
        return KeyNotShared(key) if key is not None and self._refused.get(shard) == key else None

    async def check(self) -> None:
        """Compare again, unless the last comparison is less than a second old.

        Raises `NotReady` if the tasks of some shard are refused.
        """
        if self._clock.seconds() - self._compared_at >= RECHECK_S:
            self._soon()
            if self._comparing is not None:
                await _once(self._comparing)
        for shard, key in (self._refused or {}).items():
            if key == self._sealer.key_id:
                raise NotReady(
                    f"Not ready: no worker of shard {self._shards[shard]} has this front end's"
                    f" first sealing key, {key}. Front ends and workers need the same key file"
                )

    # Comparing.

    def _soon(self) -> None:
        """Start a comparison; if one is running, start another one after it."""
        if self._connection is None:
            return
        if self._comparing is not None:
            self._again = True
            return
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._compared_at = self._clock.seconds()
        comparing = self._comparing = Deferred.fromCoroutine(self._compare())
        comparing.addErrback(self._not_compared)
        comparing.addCallback(self._compared)

    def _not_compared(self, reason: Failure) -> None:
        if not reason.check(CancelledError):
            self._log.failure(
                "could not compare the sealing keys with those of the workers; trying again",
                reason,
            )

    def _compared(self, _: None) -> None:
        self._comparing = None
        if self._connection is None:
            return
        if self._again:
            self._again = False
            self._soon()
            return
        self._pause_s = min(WHILE_SILENT_S, 2 * self._pause_s) if self._silent else RECHECK_S
        unsettled = not self._silent and (self._refused or not self._answered)
        pause_s = RECHECK_S if unsettled else max(COMPARE_EVERY_S, self._pause_s)
        self._next = self._clock.callLater(pause_s, self._look)

    def _look(self) -> None:
        self._next = None
        self._soon()

    async def _compare(self) -> None:
        key = self._sealer.key_id
        if key is None:
            return
        self._silent = False
        answers = await gatherResults(
            [Deferred.fromCoroutine(self._ask(shard, key)) for shard in self._shards]
        )
        if self._connection is None or self._connection.closed:
            return  # the connection was lost, so missing answers mean nothing
        self._answered = None not in answers
        lacking = {
            shard: theirs
            for shard, theirs in zip(self._shards, answers, strict=True)
            if theirs is not None and key not in theirs
        }
        self._refused = {shard.index: key for shard in lacking}
        if lacking:
            self._log_refusal(key, *next(iter(lacking.items())))
        elif self._logged is not None and self._answered:
            self._logged = None
            self._log.info(
                "POSTs are accepted again: the workers have this front end's first sealing key"
                " {key}",
                key=key,
            )

    async def _ask(self, shard: Shard, key: str) -> set[str] | None:
        """Return the ids of all keys that the shard's workers have, None if no worker answers.

        Collects the answers for one second, or until a worker has `key`.
        """
        theirs: set[str] = set()
        answered = False

        def heard(body: bytes) -> None:
            nonlocal answered
            try:
                theirs.update(decode_keys(body))
            except UndecodableMessage as error:
                self._log.error(
                    "shard {shard}: ignoring a worker's answer about sealing keys: {error}",
                    shard=str(shard),
                    error=error,
                )
                return
            answered = True
            self._spoken.add(shard)
            if key in theirs:
                asked.cancel()

        asked = self._rpc.subscribe(
            shard.inquiry,
            encode(KeysAsked()),
            exchange=STATUS_EXCHANGE,
            timeout_s=ANSWERS_WITHIN_S,
            each=heard,
        )
        try:
            await asked
        except Unroutable:
            return None
        except (CancelledError, BrokerError):
            pass
        if not answered:
            self._silent |= shard not in self._spoken
            return None
        return theirs

    def _log_refusal(self, key: str, shard: Shard, theirs: set[str]) -> None:
        """Log the refusal once for each key, even if workers come and go in the meantime."""
        if self._logged == key:
            return
        self._logged = key
        self._log.error(
            "POSTs are refused: no worker of shard {shard} has this front end's first sealing key"
            " {key}; the workers have: {theirs}. Give the same key file to all front ends and"
            " workers; no restart is needed",
            shard=str(shard),
            key=key,
            theirs=", ".join(sorted(theirs)) or "none",
        )


async def _once(deferred: Deferred[None]) -> None:
    """Wait for a Deferred that has other waiters. Cancelling ends this wait only."""
    waiter: Deferred[None] = Deferred()

    def tell(result: None) -> None:
        if not waiter.called:
            waiter.callback(None)

    deferred.addBoth(tell)
    await waiter

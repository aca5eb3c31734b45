"""Whether a front end and the workers have the same sealing keys: ids of keys are compared through
the broker, before a task is taken.

A worker answers `rtprov.messaging.query_messages.KeysAsked` with the ids of its keys. A front end
asks all workers of its shards: when it connects, when its own keys change, when it is asked whether
it is ready, and every two seconds; every second while no worker has its key, or none is there. No
POST waits for that."""

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
# while no worker has the key, or none is there; and at the most as often when it is asked whether
# it is ready
IN_DOUBT_S = 1.0
# at the longest, doubling: an earlier version's worker logs an error for each question
WHILE_SILENT_S = 60.0


class SharedKeys:
    """A session of the front end's connection: attach it after the `RpcClient`.

    For each shard it knows one of three things: a live worker has the front end's first key; live
    workers have answered, and none has it; or nothing, since no worker is alive, or those that are
    do not answer (an earlier version). Only the second one is a refusal. (Before the first
    comparison everything is refused; that takes a second at the most.)"""

    _log = Logger()

    def __init__(self, *, rpc: RpcClient, sealer: Sealer, shards: int, clock: IReactorTime) -> None:
        self._rpc = rpc
        self._sealer = sealer
        self._shards = [Shard(index, shards) for index in range(shards)]
        self._clock = clock
        # by shard: the key that no live worker has; None before the first comparison
        self._refused: dict[int, str] | None = None
        self._logged: str | None = None  # the key of which the log has said that no worker has it
        self._connection: AmqpConnection | None = None
        self._comparing: Deferred[None] | None = None
        self._again = False
        self._compared_at = clock.seconds()
        self._spoken: set[Shard] = set()  # of which some worker has answered
        self._silent = False  # the workers of some shard are there and have never answered
        self._answered = False  # for each shard some worker has answered
        self._pause_s = IN_DOUBT_S
        self._next: IDelayedCall | None = None
        sealer.watch(self._soon)

    async def attach(self, connection: AmqpConnection) -> None:
        """Compare for the first time; done within about a second. Raises `BrokerError`."""
        self._connection = connection
        self._soon()
        if self._comparing is not None:
            await _once(self._comparing)

    def detach(self) -> None:
        """The connection is gone: what was known of the workers stays, until they can be asked
        again.
        """
        self._connection = None
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._comparing is not None:
            self._comparing.cancel()

    def refusal(self, shard: int, key: str | None) -> RtprovError | None:
        """Why a task that is sealed with this key is not to be sent to the shard; None where it may
        be.
        """
        if self._refused is None:
            return BrokerUnavailable("The front end is not connected to the broker yet")
        return KeyNotShared(key) if key is not None and self._refused.get(shard) == key else None

    async def check(self) -> None:
        """Compare anew, unless that was done within a second. Raises `NotReady` where some shard's
        tasks are refused.
        """
        if self._clock.seconds() - self._compared_at >= IN_DOUBT_S:
            self._soon()
            if self._comparing is not None:
                await _once(self._comparing)
        for shard, key in (self._refused or {}).items():
            if key == self._sealer.key_id:
                raise NotReady(
                    f"Not ready: no worker of shard {self._shards[shard]} has this front end's"
                    f" first sealing key, {key}"
                )

    # Comparing.

    def _soon(self) -> None:
        """Compare now, or once more when the comparison that goes on is done."""
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
            self._log.failure("sealing keys could not be compared with the workers'", reason)

    def _compared(self, _: None) -> None:
        self._comparing = None
        if self._connection is None:
            return
        if self._again:
            self._again = False
            self._soon()
            return
        self._pause_s = min(WHILE_SILENT_S, 2 * self._pause_s) if self._silent else IN_DOUBT_S
        in_doubt = not self._silent and (self._refused or not self._answered)
        pause_s = IN_DOUBT_S if in_doubt else max(COMPARE_EVERY_S, self._pause_s)
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
            return  # no answer means nothing then
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
                "POSTs are taken again: the workers have the first sealing key {key}", key=key
            )

    async def _ask(self, shard: Shard, key: str) -> set[str] | None:
        """The keys of the shard's live workers, None where none says: all answers of a second, or
        those up to the first that has `key`.
        """
        theirs: set[str] = set()
        answered = False

        def heard(body: bytes) -> None:
            nonlocal answered
            try:
                theirs.update(decode_keys(body))
            except UndecodableMessage as error:
                self._log.error("shard {shard}: {error}", shard=str(shard), error=error)
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
        """Say it once for each key, however often workers come and go meanwhile."""
        if self._logged == key:
            return
        self._logged = key
        self._log.error(
            "POSTs are refused: no worker of shard {shard} has this front end's first sealing key"
            " {key}; theirs: {theirs}; give all of them the same key file, and this goes on by"
            " itself",
            shard=str(shard),
            key=key,
            theirs=", ".join(sorted(theirs)) or "none",
        )


async def _once(deferred: Deferred[None]) -> None:
    """Wait for a Deferred that others wait for, too; cancelling this ends only our own wait."""
    waiter: Deferred[None] = Deferred()

    def tell(result: None) -> None:
        if not waiter.called:
            waiter.callback(None)

    deferred.addBoth(tell)
    await waiter

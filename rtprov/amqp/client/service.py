"""The connection that comes back: connect, log in, attach what works on it, serve until it is lost,
detach, back off, again.

A plain loop in place of `twisted.application.internet.ClientService`, which does not survive the
loss of a connection during its handshake."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtprov.amqp.client.permissions import missing_permission
from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.backoff import jittered_backoff_s
from rtprov.errors import AmqpError, BrokerError, BrokerUnavailable, ConfigurationError, RtprovError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint

    from rtprov.amqp.client.url import BrokerUrl

BACK_OFF_MIN_S = 0.1
BACK_OFF_MAX_S = 5.0
ACCESS_REFUSED = 403
_MADE_ANEW = re.compile(r"[0-9a-f]{32}")


class Session(Protocol):
    """Something that works on the connection for as long as there is one."""

    async def attach(self, connection: AmqpConnection) -> None:
        """Set up on a fresh connection. Whatever it raises costs the connection; the loop comes
        back with a new one.
        """

    def detach(self) -> None:
        """The connection is gone. Called once for each `attach` that was begun, finished or not;
        must not raise.
        """


class BrokerConnection(Service):
    """Keeps one connection to the broker, with `sessions` attached in order and detached in
    reverse.

    A session that finds the broker's state at odds with the configuration raises
    `ConfigurationError`: `on_contradiction` is called with it, at each attempt.

    `rng` spreads the pauses between attempts (0.1 s growing to 5 s), `handshake_deadline_s` bounds
    connecting and logging in each, `attach_deadline_s` each session's attach; that one is a last
    resort, since every AMQP method has a deadline of its own."""

    _log = Logger()

    def __init__(
        self,
        *,
        name: str,
        endpoint: IStreamClientEndpoint,
        url: BrokerUrl,
        clock: IReactorTime,
        rng: random.Random,
        sessions: Sequence[Session],
        heartbeat_s: float = 10,
        handshake_deadline_s: float = 5.0,
        attach_deadline_s: float = 300.0,
    ) -> None:
        self.setName(name)  # type: ignore[no-untyped-call] # untyped in Twisted
        self._endpoint = endpoint
        self._url = url
        self._clock = clock
        self._rng = rng
        self._sessions = tuple(sessions)
        self._heartbeat_s = heartbeat_s
        self._handshake_deadline_s = handshake_deadline_s
        self._attach_deadline_s = attach_deadline_s
        self._loop: Deferred[None] | None = None
        self._waiters: list[Deferred[None]] = []
        self._failures = 0
        self._last_complaint = ""
        self._connection: AmqpConnection | None = None
        self.connected = False
        self.on_contradiction: Callable[[ConfigurationError], None] = nobody

    def redirect(self, endpoint: IStreamClientEndpoint, url: BrokerUrl) -> None:
        """Use another endpoint and URL from the next connection on; if they name another broker or
        user, leave the present one now.
        """
        before, self._endpoint, self._url = self._url, endpoint, url
        if _lead_apart(before, url):
            self._log.info("{name}: the broker is now {url}", name=self.name, url=url)
            if self._connection is not None:
                self._connection.close()

    def when_connected(self) -> Deferred[None]:
        """Fire once all sessions are attached; at once when they are. Never fires when the service
        is stopped before.
        """
        waiter: Deferred[None] = Deferred()
        if self.connected:
            waiter.callback(None)
        else:
            self._waiters.append(waiter)
            waiter.addErrback(self._forget_waiter, waiter)
        return waiter

    def _forget_waiter(self, reason: object, waiter: Deferred[None]) -> object:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        return reason

    # The service.

    def startService(self) -> None:
        """Begin to connect."""
        super().startService()  # type: ignore[no-untyped-call] # untyped in Twisted
        if self._loop is None:
            self._loop = Deferred.fromCoroutine(self._run())
            self._loop.addErrback(self._on_loop_end)

    def stopService(self) -> Deferred[None]:
        """End the connection cleanly, within about 2 s. Fires when it is gone and no timer is
        left.
        """
        super().stopService()  # type: ignore[no-untyped-call] # untyped in Twisted
        loop, self._loop = self._loop, None
        stopped: Deferred[None] = Deferred()
        if loop is None:
            return succeed(None)
        loop.addBoth(stopped.callback)
        loop.cancel()
        return stopped

    def _on_loop_end(self, reason: object) -> None:
        if self.running:
            self._log.critical(
                "{name}: the connection loop ended: {reason}", name=self.name, reason=reason
            )

    # The loop.

    async def _run(self) -> None:
        while self.running:
            try:
                await self._serve_once()
            except BrokerError as error:
                self._complain(error)
            except ConfigurationError as error:
                if self.on_contradiction is nobody:
                    self._complain(error)
                self.on_contradiction(error)
            except CancelledError:
                self._log.info("{name}: disconnected from {url}", name=self.name, url=self._url)
            except Exception as error:
                if repr(error) != self._last_complaint:
                    self._last_complaint = repr(error)
                    self._log.failure(
                        "{name}: the connection to {url} fails for an error of ours",
                        name=self.name,
                        url=self._url,
                    )
            if not self.running:
                return
            self._failures += 1
            pause_s = jittered_backoff_s(
                self._failures, self._rng, first_s=BACK_OFF_MIN_S, longest_s=BACK_OFF_MAX_S
            )
            await deferLater(self._clock, pause_s)

    async def _serve_once(self) -> None:
        """One connection's life. Raises what ended it."""
        url = self._url
        connection = self._connection = await self._connect()
        attached: list[Session] = []
        try:
            if _lead_apart(url, self._url):
                raise BrokerUnavailable("The broker's URL has changed meanwhile")
            await self._handshake(connection)
            await self._attach(connection, attached)
            since = self._on_connected(connection)
            await connection.when_lost()
            if self._clock.seconds() - since >= BACK_OFF_MAX_S:
                self._failures = 0
        finally:
            self.connected = False
            for session in reversed(attached):
                self._detach(session)
            await self._end(connection)
            self._connection = None
        raise connection.failure or BrokerUnavailable("The connection to the broker was lost")

    async def _connect(self) -> AmqpConnection:
        try:
            protocol = await self._endpoint.connect(_Factory(self._new_connection)).addTimeout(
                self._handshake_deadline_s, self._clock
            )
        except CancelledError:
            raise
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"No connection came about within {self._handshake_deadline_s:g} s"
            ) from error
        except Exception as error:
            raise BrokerUnavailable(f"No connection came about: {error}") from error
        return cast("AmqpConnection", protocol)

    def _new_connection(self) -> AmqpConnection:
        return AmqpConnection(
            url=self._url,
            clock=self._clock,
            heartbeat_s=self._heartbeat_s,
            handshake_deadline_s=self._handshake_deadline_s,
        )

    async def _handshake(self, connection: AmqpConnection) -> None:
        try:
            await connection.handshake()
        except AmqpError as error:
            if error.reply_code == ACCESS_REFUSED:
                raise BrokerUnavailable(
                    f"The broker refused the user name or the password of {self._url.username!r}:"
                    f" {error}"
                ) from error
            raise

    async def _attach(self, connection: AmqpConnection, attached: list[Session]) -> None:
        for session in self._sessions:
            attached.append(session)
            work = Deferred.fromCoroutine(session.attach(connection))
            connection.when_lost().addCallback(_cancel, work)
            try:
                await work.addTimeout(self._attach_deadline_s, self._clock)
            except TimeoutError as error:
                raise BrokerUnavailable(
                    f"{_name(session)} was not ready within {self._attach_deadline_s:g} s"
                ) from error
            except BrokerError as error:
                raise BrokerUnavailable(f"{_name(session)} could not set up: {error}") from error
            except CancelledError:
                if self.running and connection.failure is not None:
                    raise connection.failure from None
                raise
            if connection.closed or not self.running:
                raise connection.failure or CancelledError()

    def _on_connected(self, connection: AmqpConnection) -> float:
        self.connected = True
        self._last_complaint = ""
        product, version = (
            connection.server_properties.get(key, "") for key in ("product", "version")
        )
        self._log.info(
            "{name}: connected to {url} ({product} {version})",
            name=self.name,
            url=self._url,
            product=product,
            version=version,
        )
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)
        return self._clock.seconds()

    def _detach(self, session: Session) -> None:
        try:
            session.detach()
        except Exception:
            self._log.failure(
                "{name}: detaching {session} failed", name=self.name, session=_name(session)
            )

    async def _end(self, connection: AmqpConnection) -> None:
        """Wait until the transport is gone, whoever cancels meanwhile: nothing of this connection
        may reach into the next one's time.
        """
        connection.close()
        while not connection.lost:
            with suppress(CancelledError):
                await connection.when_lost()

    def _complain(self, error: RtprovError) -> None:
        """Once for each new trouble, not once for each attempt. Names that are made anew for each
        attempt make no new trouble.
        """
        text = str(error)
        missing = missing_permission(error) or missing_permission(error.__cause__)
        if missing is not None:
            text = f"{text} ({missing})"
        known = _MADE_ANEW.sub("", text)
        if self.running and known != self._last_complaint:
            self._last_complaint = known
            self._log.warn(
                "{name}: not connected to {url}, trying again: {text}",
                name=self.name,
                url=self._url,
                text=text,
            )


def _lead_apart(one: BrokerUrl, other: BrokerUrl) -> bool:
    """Whether they name different brokers or users. Another password alone is no reason to leave a
    connection.
    """
    return attrs.evolve(one, password="") != attrs.evolve(other, password="")


def nobody(_: ConfigurationError) -> None:
    """Nothing is to be done but to try again."""


class _Factory(Factory):
    """A fresh connection, with a fresh delegate, for each transport."""

    noisy = False

    def __init__(self, make: Callable[[], AmqpConnection]) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> AmqpConnection:
        return self._make()


def _cancel(_: None, work: Deferred[None]) -> None:
    work.cancel()


def _name(session: Session) -> str:
    return type(session).__name__

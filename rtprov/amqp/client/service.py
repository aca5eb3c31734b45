"""A service that keeps a connection to the broker and reconnects when it is lost.

It repeats these steps: connect, log in, attach the sessions, wait until the connection is lost,
detach the sessions, pause.

It does not use `twisted.application.internet.ClientService`, because that fails if a connection is
lost during its handshake.
"""

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
_GENERATED_ID = re.compile(r"[0-9a-f]{32}")


class Session(Protocol):
    """A component that uses the connection. The service attaches it to each new connection."""

    async def attach(self, connection: AmqpConnection) -> None:
        """Set up channels and consumers on a new connection.

        If it raises, the connection is closed, and the service connects again.
        """

    def detach(self) -> None:
        """Release what `attach` has set up: the connection is closed, or about to be.

        Called once for each call of `attach`, even if that did not finish. Must not raise.
        """


class BrokerConnection(Service):
    """Keeps one connection to the broker, and reconnects when it is lost.

    `sessions` are attached to each connection in order, and detached in reverse order. A session
    raises `ConfigurationError` if the broker's state contradicts the configuration;
    `on_contradiction` is then called with the error, at each attempt.

    - `rng`: adds jitter to the pauses between attempts, which grow from 0.1 s to 5 s.
    - `heartbeat_s`: the heartbeat interval to ask for; 0 leaves it to the broker.
    - `handshake_deadline_s`: the limit for connecting, and again for the AMQP handshake.
    - `attach_deadline_s`: the limit for each session's attach. It is a last resort, because every
      AMQP method has a deadline of its own.
    """

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
        self.on_contradiction: Callable[[ConfigurationError], None] = ignore_contradiction

    def redirect(self, endpoint: IStreamClientEndpoint, url: BrokerUrl) -> None:
        """Use another endpoint and URL from the next connection on.

        If the URL names another broker or user, the present connection is closed now.
        """
        before, self._endpoint, self._url = self._url, endpoint, url
        if _differ_in_broker_or_user(before, url):
            self._log.info("{name}: the broker is now {url}", name=self.name, url=url)
            if self._connection is not None:
                self._connection.close()

    def when_connected(self) -> Deferred[None]:
        """Return a Deferred that fires once all sessions are attached, or at once if they are.

        It never fires if the service is stopped before.
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
        """Start connecting."""
        super().startService()  # type: ignore[no-untyped-call] # untyped in Twisted
        if self._loop is None:
            self._loop = Deferred.fromCoroutine(self._run())
            self._loop.addErrback(self._on_loop_end)

    def stopService(self) -> Deferred[None]:
        """Close the connection with ``connection.close``, within about 2 s.

        The Deferred fires once the transport is closed and no timer is left.
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
                "{name}: the connection loop ended unexpectedly: {reason}; this process does not"
                " reconnect to the broker",
                name=self.name,
                reason=reason,
            )

    # The loop.

    async def _run(self) -> None:
        while self.running:
            try:
                await self._serve_once()
            except BrokerError as error:
                self._log_once(error)
            except ConfigurationError as error:
                if self.on_contradiction is ignore_contradiction:
                    self._log_once(error)
                self.on_contradiction(error)
            except CancelledError:
                self._log.info(
                    "{name}: disconnected from {url}",
                    event="broker.disconnected",
                    name=self.name,
                    url=self._url,
                )
            except Exception as error:
                if repr(error) != self._last_complaint:
                    self._last_complaint = repr(error)
                    self._log.failure(
                        "{name}: internal error in the connection to {url}, trying again",
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
        """Connect once, and wait until the connection is lost. Raises the reason."""
        url = self._url
        connection = self._connection = await self._connect()
        attached: list[Session] = []
        try:
            if _differ_in_broker_or_user(url, self._url):
                raise BrokerUnavailable("The broker's URL has changed while connecting")
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
                f"Could not connect within {self._handshake_deadline_s:g} s"
            ) from error
        except Exception as error:
            raise BrokerUnavailable(f"Could not connect: {error}") from error
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
            event="broker.connected",
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
        """Close the connection, and wait until its transport is closed, even if cancelled.

        No event of this connection may arrive after the next one has started.
        """
        connection.close()
        while not connection.lost:
            with suppress(CancelledError):
                await connection.when_lost()

    def _log_once(self, error: RtprovError) -> None:
        """Log why there is no connection, if the reason is not the one logged before.

        Generated ids (32 hexadecimal digits) are ignored in the comparison, because each attempt
        generates new ones.
        """
        text = str(error)
        missing = missing_permission(error) or missing_permission(error.__cause__)
        if missing is not None:
            text = f"{text} ({missing})"
        known = _GENERATED_ID.sub("", text)
        if self.running and known != self._last_complaint:
            self._last_complaint = known
            self._log.warn(
                "{name}: not connected to {url}, trying again: {text}",
                event="broker.not_connected",
                name=self.name,
                url=self._url,
                text=text,
            )


def _differ_in_broker_or_user(one: BrokerUrl, other: BrokerUrl) -> bool:
    """Return whether the URLs name different brokers or users.

    A new password alone is not a reason to close a connection.
    """
    return attrs.evolve(one, password="") != attrs.evolve(other, password="")


def ignore_contradiction(_: ConfigurationError) -> None:
    """Do nothing: the default `on_contradiction`. The service logs the error and tries again."""


class _Factory(Factory):
    """Makes a new connection, with a delegate of its own, for each transport."""

    noisy = False

    def __init__(self, make: Callable[[], AmqpConnection]) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> AmqpConnection:
        return self._make()


def _cancel(_: None, work: Deferred[None]) -> None:
    work.cancel()


def _name(session: Session) -> str:
    return type(session).__name__

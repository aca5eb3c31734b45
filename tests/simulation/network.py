"""The network between roles: streams of bytes that arrive late, in pieces, or not at all.

A *link* is one connection with its two *ends*. What one end writes reaches the other in order,
after a delay, cut into pieces anywhere. Links do not wait for one another. A link can be

- *cut*: each direction still delivers a random part of the data in flight, then both ends are
  notified, each at its own time;
- *mute*, in one direction or both (half-open): nothing arrives and neither end is notified, until
  the link is unmuted;
- *orphaned*, when a role dies: its peers are notified of the loss or, if the machine lost its
  power, not at all.

A *route*, from one role to one server's name, can be blocked: its links are then mute, and
connecting hangs.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.simulation.clock import Role, WorldClock
from tests.simulation.links import HERE, Link

CONNECT_TIMEOUT_S = 10.0
REDIAL_S = 1.0


@define(eq=False)
class _Listener:
    role: Role
    factory: IProtocolFactory


class Network:
    """The network. `split` is how often a piece of data is cut in two, `slow` how often one takes
    long; both from 0 to 1.
    """

    def __init__(self, world: WorldClock, rng: random.Random, *, split: float, slow: float) -> None:
        self.world = world
        self.rng = rng
        self.split = split
        self.slow = slow
        self.links: list[Link] = []
        self.every_link: list[Link] = []
        self._listeners: dict[str, _Listener] = {}
        self._blocked: dict[tuple[str, str], float] = {}
        self._silent: dict[str, float] = {}  # servers without power, and until when
        self._number = 0
        self.on_link: Callable[[Link], None] = lambda _: None

    def listen(self, role: Role, name: str, factory: IProtocolFactory) -> None:
        self._listeners[name] = _Listener(role, factory)

    def endpoint(self, role: Role, name: str) -> IStreamClientEndpoint:
        return _Endpoint(self, role, name)

    def delay_s(self, link: Link) -> float:
        """Return the transit time of the next bytes of a link."""
        delay_s = link.latency_s * (0.5 + self.rng.random())
        if self.slow and self.rng.random() < self.slow:
            delay_s += self.rng.random() * 2.0
        return delay_s

    # Faults.

    def block(self, client: str, name: str, seconds: float) -> None:
        """Block the route between a client role and a server's name."""
        self._blocked[client, name] = self.world.now + seconds
        for link in self._alive():
            if (link.client_role.name, link.name) == (client, name):
                link.disturbed = link.harmed = True
        self.world.call_later(None, seconds, self._unblock, client, name)

    def _unblock(self, client: str, name: str) -> None:
        for link in self._alive():
            if (link.client_role.name, link.name) == (client, name):
                for end in link.ends:
                    end.schedule()

    def blocked(self, link: Link) -> bool:
        """Return whether the link's route is blocked."""
        return self._is_blocked(link.client_role.name, link.name)

    def _is_blocked(self, client: str, name: str) -> bool:
        return bool(self._blocked) and self._blocked.get((client, name), 0.0) > self.world.now

    def heal(self) -> None:
        """End all blocks and unmute all links."""
        self._blocked.clear()
        self._silent.clear()
        self.slow = 0.0
        for link in self._alive():
            for end in link.ends:
                end.unmute()

    def role_died(self, role: Role, silent_s: float | None) -> None:
        """Remove a dead role from the network. With `silent_s` its peers are notified only after so
        many seconds.
        """
        for name in [name for name, listener in self._listeners.items() if listener.role is role]:
            del self._listeners[name]
            if silent_s is not None:
                self._silent[name] = self.world.now + silent_s
        for link in self._alive():
            for end in link.ends:
                if end.role is role:
                    if silent_s is not None:
                        link.mute(link.ends, silent_s)
                    link.disturbed = link.harmed = True
                    end.orphan()

    def disturb(self, role: Role) -> None:
        """Mark the role's links as disturbed: no deadline is checked on them."""
        for link in self._alive():
            if role in (link.client_role, link.server_role):
                link.disturbed = True

    def role_left(self, role: Role) -> None:
        """Stop listening for a role."""
        for name in [name for name, listener in self._listeners.items() if listener.role is role]:
            del self._listeners[name]

    def _alive(self) -> list[Link]:
        self.links = [link for link in self.links if not link.over]
        return self.links

    def open_links(self) -> list[Link]:
        """Return the links of which an end is still connected."""
        return list(self._alive())

    # Connecting.

    def unreachable(self, client: str, name: str) -> bool:
        """Return whether a connection attempt gets no reaction at all now: the route is blocked, or
        the server is without power or frozen.
        """
        listener = self._listeners.get(name)
        if listener is None:
            return self._silent.get(name, 0.0) > self.world.now or self._is_blocked(client, name)
        return listener.role.frozen_until > self.world.now or self._is_blocked(client, name)

    def join(
        self, role: Role, name: str, factory: IProtocolFactory, latency_s: float, dialed_at: float
    ) -> IProtocol:
        """Connect at once. Raises `ConnectionRefusedError`."""
        listener = self._listeners.get(name)
        server = listener.factory.buildProtocol(HERE) if listener is not None else None
        client = factory.buildProtocol(HERE)
        if listener is None or server is None or client is None:
            raise ConnectionRefusedError(f"nothing listens on {name}")
        self._number += 1
        link = Link(
            self, self._number, role, listener.role, name, latency_s, dialed_at, self.world.now
        )
        link.client.protocol, link.server.protocol = client, server
        self.links.append(link)
        self.every_link.append(link)
        self.on_link(link)
        server.makeConnection(link.server)
        client.makeConnection(link.client)
        return client


class _Dial:
    """One attempt to connect. While there is no reaction it tries again and again, as TCP does."""

    def __init__(self, network: Network, role: Role, name: str, factory: IProtocolFactory) -> None:
        self._network, self._role, self._name, self._factory = network, role, name, factory
        self._began = network.world.now
        self._latency_s = 0.0002 + network.rng.random() ** 3 * 0.03
        self.connected: Deferred[IProtocol] = Deferred(lambda _: self._stop())
        self._next = network.world.call_later(role, self._latency_s, self._try)
        self._give_up = network.world.call_later(
            role, CONNECT_TIMEOUT_S, self._fail, TimeoutError()
        )

    def _stop(self) -> None:
        for call in (self._next, self._give_up):
            if call.active():
                call.cancel()

    def _fail(self, error: Exception) -> None:
        self._stop()
        self.connected.errback(error)

    def _try(self) -> None:
        network = self._network
        if network.unreachable(self._role.name, self._name):
            self._next = network.world.call_later(self._role, REDIAL_S, self._try)
            return
        try:
            protocol = network.join(
                self._role, self._name, self._factory, self._latency_s, self._began
            )
        except ConnectionRefusedError as error:
            self._fail(error)
        else:
            self._stop()
            self.connected.callback(protocol)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, network: Network, role: Role, name: str) -> None:
        self._network, self._role, self._name = network, role, name

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return _Dial(self._network, self._role, self._name, factory).connected


@implementer(IAgentEndpointFactory)
class AgentEndpoints:
    """Endpoints for a role's HTTP client: the host of a URL is a server's name."""

    def __init__(self, network: Network, role: Role) -> None:
        self._network, self._role = network, role

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self._network.endpoint(self._role, uri.host.decode())

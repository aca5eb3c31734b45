"""Where a front end or a worker finds its broker: ``--broker``, or the file that ``--broker-file`` names, which may change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet import reactor

from rtprov.amqp.url import BrokerUrl, client_endpoint
from rtprov.errors import ConfigurationError
from rtprov.tap.renewal import Renewal
from rtprov.tap.services import verified_broker
from rtprov.tap.timing import clock
from rtprov.tls import Files, read_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IStreamClientEndpoint

    from rtprov.amqp.connection import BrokerConnection


def read_broker_url(file: Path) -> BrokerUrl:
    """The URL that the file holds in its only line. Raises `ConfigurationError`, which never repeats what may hold a password."""
    lines = [line.strip() for line in read_text(file, "broker's URL").splitlines() if line.strip()]
    if len(lines) != 1:
        raise ConfigurationError(f"{file}: expected one line, the broker's URL; there are {len(lines)}")
    try:
        return BrokerUrl.parse(lines[0])
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from None


class BrokerFile(Files):
    """The file's URL. `on_change` is called with another one, once it is read."""

    def __init__(self, file: Path) -> None:
        """Raises `ConfigurationError`."""
        super().__init__(file)
        self._file = file
        self.url = read_broker_url(file)
        self.on_change: Callable[[BrokerUrl], None] = lambda _: None

    def load(self) -> None:
        url = read_broker_url(self._file)
        if url != self.url:
            self.on_change(url)
            self.url = url


class BrokerRoute:
    """The broker's URL and an endpoint that leads to it, from a command's options. Raises `ConfigurationError`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        file: Path | None = options["broker-file"]
        self._file = None if file is None else BrokerFile(file)
        self.url: BrokerUrl = options["broker"] if self._file is None else self._file.url
        self.endpoint = self._endpoint_of(self.url)

    def _endpoint_of(self, url: BrokerUrl) -> IStreamClientEndpoint:
        return client_endpoint(reactor, url, verified_broker(self._options, url))

    def follow(self, connection: BrokerConnection) -> list[Renewal]:
        """The service that has `connection` go where the file says, if there is a file."""
        if self._file is None:
            return []
        self._file.on_change = lambda url: connection.redirect(self._endpoint_of(url), url)
        return [Renewal(self._file, clock=clock, what="broker's URL")]

"""The broker's address: ``--broker``, or the file of ``--broker-file``, which may change at run
time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import ConfigurationError
from rtprov.security.files import Files, read_text
from rtprov.security.tls_client import VerifiedServers
from rtprov.tap.client_connections import broker_endpoint
from rtprov.tap.identity import ca_file
from rtprov.tap.reloading import Renewal

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

    from rtprov.amqp.client.service import BrokerConnection


def read_broker_url(file: Path) -> BrokerUrl:
    """Return the URL in the file's only line.

    Raises `ConfigurationError`. Its message never quotes the file, which may contain a password.
    """
    lines = [line.strip() for line in read_text(file, "broker's URL").splitlines() if line.strip()]
    if len(lines) != 1:
        raise ConfigurationError(
            f"{file}: expected one line with the broker's URL, found {len(lines)} lines"
        )
    try:
        return BrokerUrl.parse(lines[0])
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from None


class BrokerFile(Files):
    """The file of ``--broker-file``. `on_change` is called with the new URL when it has changed."""

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


class BrokerCA(Files):
    """The CA that verifies the broker's certificate. Its file is loaded when an ``amqps`` URL is
    used for the first time. Before that, the file need not exist.
    """

    def __init__(self, certs: Path, ca: Path | None) -> None:
        self._certs = certs
        self._ca = ca
        self._servers: VerifiedServers | None = None
        super().__init__(ca or certs / "ca.pem")

    def servers(self) -> VerifiedServers:
        """Return the verifier, loaded at the first call. Raises `ConfigurationError`."""
        if self._servers is None:
            self._servers = VerifiedServers(ca_file(self._certs, self._ca))
            self.certificates = self._servers.certificates
        return self._servers

    def load(self) -> None:
        if self._servers is not None:
            self._servers.load()


class BrokerRoute:
    """The broker's `url` and the `endpoint` that connects to it.

    The URL is `broker`, or the one in `broker_file` if that is given. The CA of an ``amqps`` broker
    is `ca`, or ca.pem in `certs`. Raises `ConfigurationError` if the URL's file or the CA cannot be
    used.
    """

    def __init__(
        self,
        broker: BrokerUrl,
        broker_file: Path | None,
        *,
        certs: Path,
        ca: Path | None,
        clock: IReactorTime,
    ) -> None:
        self._clock = clock
        self._ca = BrokerCA(certs, ca)
        self._file = None if broker_file is None else BrokerFile(broker_file)
        self.url = broker if self._file is None else self._file.url
        self.endpoint = self._endpoint_of(self.url)

    def _endpoint_of(self, url: BrokerUrl) -> IStreamClientEndpoint:
        return broker_endpoint(url, self._ca.servers() if url.tls else None, self._clock)

    def follow(self, connection: Callable[[], BrokerConnection]) -> list[Renewal]:
        """Return services that watch the files of ``--broker-file`` and the CA.

        When the URL changes, the current connection, which `connection` returns, is redirected.
        """
        if self._file is None:
            return [self._watch_ca()] if self.url.tls else []

        def redirect(url: BrokerUrl) -> None:
            self.endpoint, self.url = self._endpoint_of(url), url
            connection().redirect(self.endpoint, url)

        self._file.on_change = redirect
        return [
            self._watch_ca(),
            Renewal(self._file, clock=self._clock, what="broker's URL"),
        ]

    def _watch_ca(self) -> Renewal:
        return Renewal(self._ca, clock=self._clock, what="CA certificates")

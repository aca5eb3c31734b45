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
from rtprov.tap.process import wall_clock
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


ClientFiles = tuple[Path, Path]
"""The client certificate that is presented to the broker, and its private key."""


def client_files(certificate: Path | None, private_key: Path | None) -> ClientFiles | None:
    """Return the two files, or None if neither is given.

    Raises `ConfigurationError` if only one is given.
    """
    if certificate is not None and private_key is not None:
        return certificate, private_key
    if certificate is not None or private_key is not None:
        raise ConfigurationError("--amqp-certificate and --amqp-private-key need each other")
    return None


class BrokerCA(Files):
    """The CA that verifies the broker's certificate, and the files of the client certificate, if
    there is one. They are loaded when an ``amqps`` URL is used for the first time. Before that,
    they need not exist.
    """

    def __init__(self, certs: Path, ca: Path | None, client: ClientFiles | None = None) -> None:
        self._certs = certs
        self._ca = ca
        self._client = client
        self._servers: VerifiedServers | None = None
        super().__init__(ca or certs / "ca.pem", *(client or ()))

    def servers(self) -> VerifiedServers:
        """Return the verifier, loaded at the first call. Raises `ConfigurationError`."""
        if self._servers is None:
            self._servers = VerifiedServers(
                ca_file(self._certs, self._ca), *(self._client or ()), wall_clock=wall_clock
            )
            self.certificates = self._servers.certificates
        return self._servers

    def load(self) -> None:
        if self._servers is not None:
            self._servers.load()


class BrokerRoute:
    """The broker's `url` and the `endpoint` that connects to it.

    The URL is `broker`, or the one in `broker_file` if that is given. The CA of an ``amqps`` broker
    is `ca`, or ca.pem in `certs`. The broker is shown the certificate of `client`; if the URL names
    no user, that logs in. Raises `ConfigurationError` if the URL's file, the CA or the certificate
    cannot be used.
    """

    def __init__(
        self,
        broker: BrokerUrl,
        broker_file: Path | None,
        *,
        certs: Path,
        ca: Path | None,
        clock: IReactorTime,
        client: ClientFiles | None = None,
    ) -> None:
        self._clock = clock
        self._ca = BrokerCA(certs, ca, client)
        self._with_certificate = client is not None
        self._file = None if broker_file is None else BrokerFile(broker_file)
        self.url = self._as_used(broker if self._file is None else self._file.url)
        self.endpoint = self._endpoint_of(self.url)

    def _as_used(self, url: BrokerUrl) -> BrokerUrl:
        return url.with_certificate() if self._with_certificate else url

    def _endpoint_of(self, url: BrokerUrl) -> IStreamClientEndpoint:
        return broker_endpoint(url, self._ca.servers() if url.tls else None, self._clock)

    def follow(self, connection: Callable[[], BrokerConnection]) -> list[Renewal]:
        """Return services that watch the files of ``--broker-file`` and the CA.

        When the URL changes, the current connection, which `connection` returns, is redirected.
        """
        if self._file is None:
            return [self._watch_ca()] if self.url.tls else []

        def redirect(url: BrokerUrl) -> None:
            url = self._as_used(url)
            self.endpoint, self.url = self._endpoint_of(url), url
            connection().redirect(self.endpoint, url)

        self._file.on_change = redirect
        return [
            self._watch_ca(),
            Renewal(self._file, clock=self._clock, what="broker's URL"),
        ]

    def _watch_ca(self) -> Renewal:
        return Renewal(
            self._ca,
            clock=self._clock,
            what="certificates for the broker" if self._with_certificate else "CA certificates",
        )

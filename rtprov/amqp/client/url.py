"""Parse broker URLs: ``amqp://user:password@host:port/virtual-host``, or ``amqps://`` for TLS.

Every part is percent-decoded (https://www.rabbitmq.com/docs/uri-spec). An empty path, or ``/``,
means the virtual host ``/``.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from rtprov.errors import ConfigurationError
from rtprov.network.hosts import NO_ESCAPE, bracketed, parse_host

MAX_VIRTUAL_HOST = 127  # bytes (domain `path` in the AMQP XML specification)
_PORTS = {"amqp": 5672, "amqps": 5671}
_UNENCODED = re.compile(r"[\x00-\x20\x7f]")


def _check_encoding(parts: SplitResult) -> None:
    """Raise `ConfigurationError` if user, password or virtual host are not percent-encoded."""
    if NO_ESCAPE.search(parts.netloc.rpartition("@")[0] + parts.path):
        raise ConfigurationError(
            "The broker URL has a percent sign that is not before two hexadecimal digits: a percent"
            " sign itself is %25"
        )
    if "@" in parts.path:  # a password with a slash would be taken for the host, and shown
        raise ConfigurationError(
            "The broker URL has an @ after a slash: percent-encode the user name, the password and"
            " the virtual host (a slash is %2F, an @ is %40)"
        )
    virtual_host = parts.path[1:]
    if "/" in virtual_host and virtual_host != "/":  # "//" is accepted, as by other clients
        raise ConfigurationError(
            "The broker URL has a slash in the virtual host: write it as %2F, or leave it out if it"
            " is the last character"
        )


@attrs.frozen
class BrokerUrl:
    """A parsed broker URL. `str` and `repr` do not show the password.

    `external` is set by `with_certificate`: the client certificate says who logs in, by the SASL
    mechanism EXTERNAL (RFC 4422, appendix A), instead of user name and password.
    """

    host: str
    port: int
    username: str
    password: str = attrs.field(repr=False)
    virtual_host: str
    tls: bool
    names_user: bool = attrs.field(default=True, eq=False, repr=False)
    external: bool = False

    def with_certificate(self) -> BrokerUrl:
        """Return the URL for a client that presents a certificate.

        If the URL names no user, the certificate logs in. Raises `ConfigurationError` if the URL
        does not begin with amqps://.
        """
        if not self.tls:
            raise ConfigurationError(
                "a client certificate is given for the broker, but its URL does not begin with"
                " amqps://"
            )
        return self if self.names_user else attrs.evolve(self, external=True)

    @classmethod
    def parse(cls, text: str) -> BrokerUrl:
        """Parse a URL.

        Raises `ConfigurationError`. Its message does not quote any part that may contain the
        password.
        """
        text = text.rstrip("\r\n")
        if _UNENCODED.search(text):
            raise ConfigurationError(
                "The broker URL has a blank or a control character: percent-encode it (a blank is"
                " %20)"
            )
        try:
            parts = urlsplit(text)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
            username, password, path = (
                unquote(part, errors="strict")
                for part in (parts.username or "guest", parts.password or "", parts.path)
            )
        except ValueError as error:
            raise ConfigurationError(
                "The broker URL cannot be parsed: percent-encode all special characters in the"
                " user name, the password and the virtual host"
            ) from error
        if scheme not in _PORTS:
            raise ConfigurationError("The broker URL must begin with amqp:// or amqps://")
        if not host:
            raise ConfigurationError("The broker URL names no host")
        _check_encoding(parts)
        if parts.query or parts.fragment:
            raise ConfigurationError("The broker URL must not have a query or a fragment")
        if parts.username is None:
            password = "guest"  # noqa: S105 - every broker's documented default
        virtual_host = path[1:] or "/"
        if len(virtual_host.encode()) > MAX_VIRTUAL_HOST or "\0" in f"{username}{password}{path}":
            raise ConfigurationError(
                f"The broker URL has a virtual host of more than {MAX_VIRTUAL_HOST} bytes, or a NUL"
                " character in the user name, the password or the virtual host"
            )
        if port == 0:
            raise ConfigurationError("The broker URL has port 0; it must be 1 to 65535")
        try:
            host = parse_host(unquote(host, errors="strict"), verified=scheme == "amqps")
        except ValueError as error:
            raise ConfigurationError(f"The broker URL is invalid: {error}") from None
        return cls(
            host,
            port or _PORTS[scheme],
            username,
            password,
            virtual_host,
            scheme == "amqps",
            names_user=parts.username is not None,
        )

    def __str__(self) -> str:
        path = "" if self.virtual_host == "/" else self.virtual_host
        user = "" if self.external else f"{self.username}@"
        scheme = "amqps" if self.tls else "amqp"
        return f"{scheme}://{user}{bracketed(self.host)}:{self.port}/{path}"

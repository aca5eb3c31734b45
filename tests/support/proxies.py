"""A test case that runs real proxies, nginx and haproxy, as child processes, with TLS on both
sides.

    proxy = await self.nginx(upstream_port, "keepalive_timeout 1s;")    # in a `ProxyTestCase`
    client = self.client(proxy.port)

If a program is not installed, the test is skipped; with ``RTPROV_REQUIRE_PROXIES=1`` in the
environment it fails.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from attrs import frozen
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import ClientCreator, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import FailTest, SkipTest

from rtprov.security.development import make_development_set
from tests.support.ports import free_port
from tests.support.processes import POLL_EVERY_S, ProcessTestCase, Twistd, reactor

REQUIRE = "RTPROV_REQUIRE_PROXIES"
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not in every user's PATH

NGINX = """
daemon off;
master_process off;
error_log stderr notice;
pid nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream server {{ server 127.0.0.1:{upstream}; {upstream_settings} }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate certs/frontend.pem;
        ssl_certificate_key certs/frontend.key;
        proxy_ssl_trusted_certificate certs/ca.pem;
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
        proxy_ssl_server_name on;
        {settings}
        location / {{ proxy_pass https://server; }}
    }}
}}
"""

HAPROXY = """
global
    log stdout format raw local0 notice
    stats socket {folder}/haproxy.sock level admin
defaults
    log global
    mode {mode}
    timeout connect 2s
    timeout check 2s
    timeout client 20s
    timeout server 20s
    {defaults}
listen proxy
    bind 127.0.0.1:{port} {bind}
    server one 127.0.0.1:{upstream} {server}
"""


def find_program(name: str, *, required: bool = True) -> str:
    """Return the program's path. Raises `SkipTest` if it is not installed, or `FailTest` if
    `required` is true and it must be.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")
    if found is None:
        if required and os.environ.get(REQUIRE) == "1":
            raise FailTest(f"{name} is not installed, and {REQUIRE} is set")
        raise SkipTest(f"{name} is not installed")
    return found


@frozen
class Proxy:
    """A running proxy and the port that it listens on."""

    process: Twistd
    port: int
    folder: Path

    async def checked(self, server: str = "proxy/one") -> None:
        """Make haproxy consider a server down. Fires when ``rise`` health checks in a row have
        shown that it is up.
        """
        control = socket.socket(socket.AF_UNIX)
        with control:
            control.connect(str(self.folder / "haproxy.sock"))
            control.sendall(f"set server {server} health down\n".encode())
            control.recv(100)
        await self.process.logged(f"Server {server} is UP")


class ProxyTestCase(ProcessTestCase):
    """A test with a development set of certificates in its folder, and proxies that show the front
    end's certificate.
    """

    def setUp(self) -> None:
        super().setUp()
        make_development_set(self.certs)

    @property
    def certs(self) -> Path:
        return self.folder / "certs"

    async def nginx(self, upstream: int, settings: str = "", upstream_settings: str = "") -> Proxy:
        """Start nginx as a proxy for a port. `settings` go into the ``server`` block,
        `upstream_settings` into ``upstream``.
        """
        program, port, file = find_program("nginx"), free_port(), self.folder / "nginx.conf"
        values = {
            "port": port,
            "upstream": upstream,
            "settings": settings,
            "upstream_settings": upstream_settings,
        }
        file.write_text(NGINX.format(**values))
        return await self._started(
            port, program, "-p", str(self.folder), "-c", str(file), "-e", "stderr"
        )

    async def haproxy(
        self, upstream: int, *, mode: str = "http", defaults: str = "", server: str = ""
    ) -> Proxy:
        """Start haproxy as a proxy for a port. `server` are the parameters of its server line. In
        mode ``tcp`` it passes TLS through.
        """
        program, port, file = find_program("haproxy"), free_port(), self.folder / "haproxy.cfg"
        both = self.certs / "both.pem"
        both.write_bytes(
            (self.certs / "frontend.pem").read_bytes() + (self.certs / "frontend.key").read_bytes()
        )
        if mode == "http":
            server += (
                f" ssl verify required ca-file {self.certs / 'ca.pem'} verifyhost localhost sni"
                " str(localhost)"
            )
        bind = f"ssl crt {both}" if mode == "http" else ""
        values = {
            "mode": mode,
            "defaults": defaults,
            "bind": bind,
            "server": server,
            "port": port,
            "upstream": upstream,
            "folder": self.folder,
        }
        file.write_text(HAPROXY.format(**values))
        return await self._started(port, program, "-db", "-f", str(file))

    async def _started(self, port: int, *arguments: str) -> Proxy:
        """Start a proxy, and wait until it listens."""
        process = self.spawn(list(arguments))
        while True:
            try:
                connected = await ClientCreator(reactor, Protocol).connectTCP("127.0.0.1", port)
            except ConnectionRefusedError:
                if process.status is not None:
                    raise FailTest(f"{arguments[0]} ended: {process.errors}") from None
                await deferLater(reactor, POLL_EVERY_S)
                continue
            connected.transport.abortConnection()
            return Proxy(process, port, self.folder)

"""Protection against cross-site requests: refuses changes that a page of another site requests.

A browser sends a client's certificate with such requests without asking. So they are refused
whatever the credentials are (Fetch Metadata, ``Sec-Fetch-Site``; RFC 6454, ``Origin``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from rtprov.errors import ForeignOrigin
from rtprov.http.admission import SAFE_METHODS
from rtprov.http.responses import answer_error

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers
    from twisted.web.iweb import IRequest
    from twisted.web.resource import IResource

    from rtprov.http.fast_lane import PlainRoutes

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


def is_foreign(headers: Headers, secure: bool) -> bool:
    """Return whether a page of another origin sends the request, or may have sent it.

    `secure` says whether the request came over TLS. Clients other than browsers send neither field,
    and are not foreign.
    """
    sites = headers.getRawHeaders(b"Sec-Fetch-Site")
    if sites is not None and (
        len(sites) != 1 or sites[0].strip().lower() not in (b"same-origin", b"none")
    ):
        return True
    origins, hosts = headers.getRawHeaders(b"Origin"), headers.getRawHeaders(b"Host", [])
    if origins is None:
        return False
    scheme = b"https" if secure else b"http"
    own = scheme + b"://" + _host(hosts[0], scheme) if len(hosts) == 1 else None
    return len(origins) != 1 or own is None or _normal(origins[0], scheme) != own


def _normal(origin: bytes, scheme: bytes) -> bytes:
    prefix = scheme + b"://"
    origin = origin.strip().lower()
    return (
        prefix + _host(origin.removeprefix(prefix), scheme) if origin.startswith(prefix) else origin
    )


def _host(host: bytes, scheme: bytes) -> bytes:
    return host.strip().lower().removesuffix(_DEFAULT_PORTS[scheme])


class SameOrigin(Resource):
    """Serves `resource`, but refuses foreign requests with a method that may change something.

    `plain_routes` are the resource's routes for the fast lane. The fast lane accepts no request
    with ``Origin`` or ``Sec-Fetch-Site``, so it needs no check.
    """

    isLeaf = True

    def __init__(self, resource: IResource, plain_routes: PlainRoutes | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Twisted
        self._resource = resource
        self.plain_routes = plain_routes

    def refuses(self, request: IRequest, method: bytes) -> bool:
        """Return whether a request with this method is foreign, and may change something."""
        return method not in SAFE_METHODS and is_foreign(request.requestHeaders, request.isSecure())

    def render(self, request: IRequest) -> int | bytes:
        if self.refuses(request, request.method):
            request.write(answer_error(request, Failure(ForeignOrigin())))
            request.finish()
            return NOT_DONE_YET
        return cast("int | bytes", self._resource.render(request))

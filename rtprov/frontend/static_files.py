"""The files that browsers load: the page ``/docs``, and everything below ``/ui/``.

They are in the folder ``static`` of this package. They hold no data and no secret, so no request
for them needs credentials. The folder is listed once, and only the names in that list are found. So
no path can lead out of the folder.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from attrs import frozen
from twisted.web.http import CACHED
from werkzeug.exceptions import NotFound

from rtprov.http.responses import answer_bytes

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from twisted.web.iweb import IRequest

# Content Security Policy Level 3. Pages load only files of this front end, and run no script in
# HTML. swagger-ui's style sheet has its icons as data: URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",  # a browser asks each time whether its copy is still valid
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_MEDIA_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_PLAIN = b"text/plain; charset=utf-8"  # licences and notes


@frozen
class StaticFile:
    """A file as it is sent. `etag` changes with `body` (RFC 9110 §8.8.3)."""

    media_type: bytes
    body: bytes
    etag: bytes


def answer_file(request: IRequest, name: str) -> bytes:
    """Answer with a file of the folder ``static``; a copy that the client has is confirmed.

    `name` is the file's path in the folder, with slashes. Raises `NotFound` if there is none.
    """
    if name not in names():
        raise NotFound
    file = _load(name)
    for header, value in _HEADERS.items():
        request.setHeader(header.encode(), value.encode())
    body = answer_bytes(request, file.media_type, file.body)
    if request.setETag(file.etag) is not CACHED:
        return body
    request.responseHeaders.removeHeader(b"Content-Length")
    return b""


@functools.cache
def names() -> frozenset[str]:
    """Return the names of all files."""
    return frozenset(_listing())


@functools.cache
def _listing() -> Mapping[str, Traversable]:
    found: dict[str, Traversable] = {}

    def walk(folder: Traversable, prefix: str) -> None:
        for each in folder.iterdir():
            if each.is_dir():
                walk(each, f"{prefix}{each.name}/")
            else:
                found[prefix + each.name] = each

    walk(files("rtprov.frontend") / "static", "")
    return found


@functools.cache  # called only with names of the listing
def _load(name: str) -> StaticFile:
    body = _listing()[name].read_bytes()
    suffix = name[name.rfind(".") :]
    return StaticFile(
        _MEDIA_TYPES.get(suffix, _PLAIN), body, b'"%s"' % sha256(body).hexdigest()[:32].encode()
    )

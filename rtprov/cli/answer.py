"""An answer of the front end, and what its document says."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from attrs import field, frozen
from twisted.web.http_headers import Headers


@frozen
class Answer:
    """An HTTP answer with a JSON document."""

    status: int
    document: Any
    headers: Headers = field(factory=Headers)

    @property
    def message(self) -> str:
        """The message of an error."""
        return _message(self.document) or f"HTTP {self.status}"

    def header(self, name: str) -> str | None:
        """Return the last value of a header field, None if it is missing."""
        values = self.headers.getRawHeaders(name)
        return values[-1] if values else None


def _message(document: object) -> str | None:
    """Return the message in an error's document, in one printable line."""
    if isinstance(document, dict) and isinstance(document.get("message"), str):
        return printable(document["message"])
    return None


def printable(text: str) -> str:
    """Return the begin of a text in one printable line."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text[:1000])


def missing_in(document: dict[str, Any]) -> list[str]:
    """Return the shards that an answer lacks."""
    found = document.get("incomplete")
    return [str(each) for each in found] if isinstance(found, list) else []


def cursor_of(following: str) -> str | None:
    """Return the parameter ``before`` of the path of the next page."""
    values = parse_qs(urlsplit(following).query).get("before")
    return values[0] if values else None

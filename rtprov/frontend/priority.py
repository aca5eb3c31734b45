"""Parse the request header ``Priority`` (RFC 9218), a dictionary of structured fields (RFC 9651).

Only ``u``, the urgency, is used. As the RFC demands, a field that does not parse is ignored as a
whole, and so are unknown parameters and values of ``u`` that are no integer from 0 to 7.
"""

from __future__ import annotations

import re

from rtprov.model import DEFAULT_URGENCY, LEAST_URGENCY

MAX_LENGTH = 1000
# The most common fields need no parser.
_PLAIN = re.compile(r"u=([0-7])(?:, *i)?")

_KEY = r"[a-z*][a-z0-9_.*-]*"
# RFC 9651 §3.3: numbers and dates, strings, tokens, byte sequences, booleans, display strings.
_BARE_ITEM = (
    r"(?:@?-?[0-9]{1,15}(?!\.)|-?[0-9]{1,12}\.[0-9]{1,3}"
    r'|"(?:[ !#-\[\]-~]|\\["\\])*"'
    r"|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"
    r"|:[A-Za-z0-9+/=]*:|\?[01]"
    r'|%"(?:[ !#$&-~]|%[0-9a-f]{2})*")'
)
_PARAMETERS = rf"(?:; *{_KEY}(?:={_BARE_ITEM})?)*"
_ITEM = rf"{_BARE_ITEM}{_PARAMETERS}"
_INNER_LIST = rf"\( *(?:{_ITEM}(?: +{_ITEM})*)? *\){_PARAMETERS}"
_MEMBER = re.compile(rf"({_KEY})(?:=(?:({_BARE_ITEM}){_PARAMETERS}|{_INNER_LIST})|{_PARAMETERS})")
_COMMA = re.compile(r"[ \t]*,[ \t]*")


def urgency(values: list[str]) -> int:
    """Return the urgency of the request's ``Priority`` fields, 0 (first) to 7; 3 without one."""
    text = ",".join(values).strip(" ")
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        return int(plain[1])
    if not text or len(text) > MAX_LENGTH:
        return DEFAULT_URGENCY
    found: str | None = None
    at = 0
    while True:
        member = _MEMBER.match(text, at)
        if member is None:
            return DEFAULT_URGENCY
        if member[1] == "u":  # the last one counts
            found = member[2]
        if member.end() == len(text):
            return _urgency_of(found)
        comma = _COMMA.match(text, member.end())
        if comma is None:
            return DEFAULT_URGENCY
        at = comma.end()


def _urgency_of(value: str | None) -> int:
    if value is None or not re.fullmatch(r"-?[0-9]{1,15}", value):
        return DEFAULT_URGENCY
    return int(value) if 0 <= int(value) <= LEAST_URGENCY else DEFAULT_URGENCY

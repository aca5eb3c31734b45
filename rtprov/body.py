"""The body of a request: what may stand in it, and what is said of one that breaks the rules.

The schema is msgspec's; it gives the checks here and can give an API document. msgspec does not see a key that is given twice, so the text
is read by the standard library, with each object kept as its list of pairs. Messages name the place, never a value nor an unknown key.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, NoReturn

import attrs
import msgspec
from msgspec import UNSET, Meta, UnsetType

from rtprov.errors import InvalidBody

MAX_BODY_BYTES = 65536


class Parameters(msgspec.Struct, forbid_unknown_fields=False):
    """The keys that are checked; others are the equipment's own business."""

    username: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    password: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    vlan: Annotated[int, Meta(ge=1, le=4094)] | UnsetType = UNSET
    interfaces: list[Annotated[int, Meta(ge=0)]] | UnsetType = UNSET


class Envelope(msgspec.Struct):
    """The keys beside ``parameters`` that are checked."""

    timeoutInSeconds: Annotated[int, Meta(ge=1, le=1500)]


_EXPECTED = {
    "timeoutInSeconds": "an integer from 1 to 1500",
    "username": "a non-empty string",
    "password": "a non-empty string",
    "vlan": "an integer from 1 to 4094",
    "interfaces": "a list of integers of 0 or more",
    "interfaces[]": "an integer of 0 or more",
}


@attrs.frozen
class ProvisioningRequest:
    """What the front end needs to know of a valid body. `timeout_s` is 1 to 1500."""

    timeout_s: int


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs, in order, duplicates included."""


class _Opaque(str):
    """An integer too long to be one of ours, kept as its digits; no known key takes it."""


def _integer(digits: str) -> int | _Opaque:
    return int(digits) if len(digits) < 20 else _Opaque(digits)


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


_decoder = json.JSONDecoder(object_pairs_hook=_Object, parse_int=_integer, parse_constant=_refuse_constant, strict=True)


def parse_request(body: bytes) -> ProvisioningRequest:
    """Check a body of at most `MAX_BODY_BYTES`. Raises `InvalidBody`."""
    document = _decode(body)
    if not isinstance(document, _Object):
        raise InvalidBody("the body: expected a JSON object")
    top = _unique(document, "")
    if "timeoutInSeconds" not in top:
        raise InvalidBody("timeoutInSeconds: required")
    if "parameters" not in top:
        raise InvalidBody("parameters: required")
    envelope = _convert(top, Envelope, "")
    _check_parameters(top["parameters"])
    return ProvisioningRequest(envelope.timeoutInSeconds)


def _decode(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidBody(f"the body is not UTF-8: byte {error.start} does not fit") from None
    if text.startswith("\ufeff"):
        raise InvalidBody("the body is not JSON: it begins with a byte order mark")
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidBody(f"the body is not JSON: line {error.lineno}, column {error.colno}") from None
    except ValueError:
        raise InvalidBody("the body is not JSON: NaN and Infinity are no numbers") from None
    except RecursionError:
        raise InvalidBody("the body is nested too deeply") from None


def _check_parameters(parameters: Any) -> None:
    """The three forms seen in the wild: a list of single-key objects, one object, or a list holding one object."""
    if isinstance(parameters, _Object):
        objects = [("parameters", parameters)]
    elif isinstance(parameters, list):
        objects = [(f"parameters[{index}]", item) for index, item in enumerate(parameters)]
    else:
        raise InvalidBody("parameters: expected an object or a list of objects")
    seen: dict[str, Any] = {}
    for place, item in objects:
        if not isinstance(item, _Object):
            raise InvalidBody(f"{place}: expected an object")
        unique = _unique(item, place)
        if len(objects) > 1 and len(unique) != 1:
            raise InvalidBody(f"{place}: expected an object with a single key")
        for key, value in unique.items():
            if key in seen and not _same(seen[key], value):
                raise InvalidBody(f"{_at(place, key)}: given twice with different values")
            seen[key] = value
        _convert(unique, Parameters, place)
    if not seen:
        raise InvalidBody("parameters: expected at least one key")


def _unique(pairs: _Object, place: str) -> dict[str, Any]:
    """The object as a dict; a key given twice must have the same value both times."""
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique and not _same(unique[key], value):
            raise InvalidBody(f"{_at(place, key) or 'the body'}: given twice with different values")
        unique[key] = value
    return unique


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; 1, 1.0 and true are not."""
    return repr(one) == repr(other)


def _at(place: str, key: str) -> str:
    """The key's place; an unknown key is not repeated, since it may be anything."""
    if key not in _EXPECTED and key != "parameters":
        return f"{place}: a key" if place else "a key"
    return f"{place}.{key}" if place else key


# msgspec: "Expected `int` >= 1 - at `$.vlan`", "… at `$.interfaces[1]`", or `$[...]` where a position is not told
_PATH = re.compile(r"at `\$\.(?P<key>\w+)(?P<index>\[[^\]]*\])?")


def _convert(fields: dict[str, Any], schema: type[Any], place: str) -> Any:
    known = {key: value for key, value in fields.items() if key in schema.__struct_fields__}
    if not known:
        return None
    try:
        return msgspec.convert(known, schema, strict=True)
    except msgspec.ValidationError as error:
        match = _PATH.search(str(error))
        assert match is not None, "every rule of the schemas stands on a field"
        key, index = match["key"], match["index"]
        value = known[key]
        if index and isinstance(value, list):
            index = f"[{next((position for position, item in enumerate(value) if not _is_index(item)), 0)}]"
        where = f"{place}.{key}" if place else key
        expected = _EXPECTED[f"{key}[]" if index else key]
        raise InvalidBody(f"{where}{index or ''}: expected {expected}") from None


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

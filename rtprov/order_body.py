"""Validates the body of an order, and writes the error messages for invalid ones.

The schema is msgspec's; it validates here, and generates the API description. msgspec cannot detect
a key that is given twice. So the standard library parses the text, each object is kept as a list of
pairs, and duplicates are found first. Messages name the place, but never a value or an unknown key.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, NoReturn

import attrs
import msgspec
from msgspec import UNSET, Meta, UnsetType

from rtprov.errors import InvalidBody

# RFC 8259 §9 allows such a limit. An explicit one does not depend on Python's version or on the
# depth of the caller's stack.
MAX_DEPTH = 100


class Parameters(msgspec.Struct):
    """The keys that are validated. Other keys are passed on to the equipment unchecked."""

    username: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    password: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    vlan: Annotated[int, Meta(ge=1, le=4094)] | UnsetType = UNSET
    interfaces: list[Annotated[int, Meta(ge=0)]] | UnsetType = UNSET


# The rules of `_gather` and `_check_items` in JSON Schema: at least one key, and exactly one key in
# each of several objects.
_SHAPE = {
    "minProperties": 1,
    "minItems": 1,
    "items": {"minProperties": 1},
    "if": {"type": "array", "minItems": 2},
    "then": {"items": {"maxProperties": 1}},
}


class RequestBody(msgspec.Struct):
    """The body of an order.

    `parameters` is an object, a list of objects with one key each, or a list of one object.
    """

    timeout_s: Annotated[int, Meta(ge=1, le=1500)] = msgspec.field(name="timeoutInSeconds")
    parameters: Annotated[Parameters | list[Parameters], Meta(extra_json_schema=_SHAPE)]


_EXPECTED = {
    "timeoutInSeconds": "an integer from 1 to 1500",
    "username": "a non-empty string",
    "password": "a non-empty string",
    "vlan": "an integer from 1 to 4094",
    "interfaces": "a list of integers of 0 or more",
    "interfaces[]": "an integer of 0 or more",
}
_KNOWN_PARAMETERS = frozenset(Parameters.__struct_fields__)
_NAMEABLE = _KNOWN_PARAMETERS | {"timeoutInSeconds", "parameters"}


@attrs.frozen
class ProvisioningRequest:
    """The part of a valid body that the front end uses. `timeout_s` is 1 to 1500."""

    timeout_s: int


def parse_request(body: bytes) -> ProvisioningRequest:
    """Validate a body of at most `MAX_BODY_BYTES`. Raises `InvalidBody`."""
    document = _decode(body)
    if not isinstance(document, _Object):
        raise InvalidBody("the body: expected a JSON object")
    top: dict[str, Any] = {}
    _gather(document, "", top)
    for key in ("timeoutInSeconds", "parameters"):
        if key not in top:
            raise InvalidBody(f"{key}: required")
    request = _convert(
        {"timeoutInSeconds": top["timeoutInSeconds"], "parameters": _known(top["parameters"])}
    )
    return ProvisioningRequest(request.timeout_s)


# Text to values.


@attrs.define(eq=False)
class _Object:
    """A JSON object as its pairs, in order, including duplicates.

    A list of pairs would look like a JSON array to msgspec.
    """

    pairs: list[tuple[str, Any]]


class _Huge(int):
    """An integer of 20 characters or more, shortened to its first 19: enough for any rule.

    `digits` is the complete text, to tell such integers apart. Python refuses to convert more than
    4,300 digits, and is slow for long integers.
    """

    digits: str


def _integer(digits: str) -> int:
    if len(digits) < 20:
        return int(digits)
    huge = _Huge(digits[:19])
    huge.digits = digits
    return huge


def _refuse_constant(_: str) -> NoReturn:
    raise InvalidBody("the body is not JSON: NaN and Infinity are not allowed")


_decoder = json.JSONDecoder(
    object_pairs_hook=_Object, parse_int=_integer, parse_constant=_refuse_constant
)


def _decode(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidBody(f"the body is not UTF-8: byte {error.start} is invalid") from None
    if not text:
        raise InvalidBody("the body is empty")
    if text.startswith("\ufeff"):
        raise InvalidBody("the body is not JSON: it begins with a byte order mark")
    if _deeper_than(MAX_DEPTH, text):
        raise InvalidBody(f"the body is nested too deeply: the limit is {MAX_DEPTH} levels")
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidBody(
            f"the body is not JSON: line {error.lineno}, column {error.colno}"
        ) from None


# A bracket, or a complete string, whose brackets do not count. The closing quote is optional, so a
# match never fails and never backtracks.
_BRACKETS = re.compile(r'[\[{\]}]|"(?:[^"\\]+|\\.)*"?', re.DOTALL)


def _deeper_than(limit: int, text: str) -> bool:
    if text.count("[") + text.count("{") <= limit:
        return False
    depth = 0
    for match in _BRACKETS.finditer(text):
        if match[0] in "[{":
            depth += 1
            if depth > limit:
                return True
        elif match[0] in "]}":
            depth -= 1
    return False


# Shape: keys given twice, and the three forms of ``parameters``.


def _gather(item: _Object, place: str, seen: dict[str, Any]) -> None:
    """Add an object's pairs to `seen`.

    Raises `InvalidBody` if a key is already there with a different value.
    """
    for key, value in item.pairs:
        if key in seen and _canonical(seen[key]) != _canonical(value):
            if key in _NAMEABLE:
                raise InvalidBody(f"{place}.{key}: given twice with different values".lstrip("."))
            raise InvalidBody(f"{place or 'the body'}: a key is given twice with different values")
        seen[key] = value


def _canonical(value: Any) -> object:
    """Return a value that is equal for equal JSON.

    The order of an object's keys does not matter. 1, 1.0 and true are different.
    """
    if isinstance(value, _Object):
        return _Object, [
            (key, _canonical(item)) for key, item in sorted(value.pairs, key=lambda pair: pair[0])
        ]
    if isinstance(value, list):
        return list, [_canonical(item) for item in value]
    return type(value), value.digits if isinstance(value, _Huge) else value


def _known(parameters: Any) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the validated keys of ``parameters``, in the form in which they were given.

    Raises `InvalidBody` if that is none of the three forms.
    """
    seen: dict[str, Any] = {}
    known: dict[str, Any] | list[dict[str, Any]]
    if isinstance(parameters, _Object):
        _gather(parameters, "parameters", seen)
        known = _only_known(parameters)
    elif isinstance(parameters, list):
        _check_items(parameters)
        for index, item in enumerate(parameters):
            _gather(item, f"parameters[{index}]", seen)
        known = [_only_known(item) for item in parameters]
    else:
        raise InvalidBody("parameters: expected an object or a list of objects")
    if not seen:
        raise InvalidBody("parameters: expected at least one key")
    return known


def _check_items(items: list[Any]) -> None:
    """Check a list's objects: a single one may have any number of keys, several one key each."""
    single = len(items) > 1
    for index, item in enumerate(items):
        if not isinstance(item, _Object) or (single and len({key for key, _ in item.pairs}) != 1):
            raise InvalidBody(
                f"parameters[{index}]: expected an object{' with a single key' if single else ''}"
            )


def _only_known(item: _Object) -> dict[str, Any]:
    return {key: value for key, value in item.pairs if key in _KNOWN_PARAMETERS}


# Types and ranges.

# The end of a message of msgspec: "… - at `$.parameters[3].interfaces[1]`"
_PLACE = re.compile(r" - at `\$\.(?P<place>(?:.*\.)?(?P<key>\w+)(?P<index>\[\d+\])?)`$")


def _convert(fields: dict[str, Any]) -> RequestBody:
    try:
        return msgspec.convert(fields, RequestBody)
    except msgspec.ValidationError as error:
        match = _PLACE.search(str(error))
        assert match is not None, "every rule of the schema belongs to a field"
        expected = _EXPECTED[match["key"] + ("[]" if match["index"] else "")]
        raise InvalidBody(f"{match['place']}: expected {expected}") from None

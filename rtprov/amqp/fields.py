"""Validate received field tables (AMQP 0-9-1 §4.2.5.5) before pamqp decodes them.

pamqp 3 does not check lengths. A malformed array makes it loop for ever, and its decoding time
grows with the square of the number of fields and of their depth. The checks here read the bytes
once, without copying. pamqp decodes tables that pass the checks in bounded time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pamqp import base

MAX_FIELDS = 2048  # in one method or header, including nested fields
MAX_DEPTH = 16

_SIZES = {
    b"t": 1,
    b"b": 1,
    b"B": 1,
    b"s": 2,
    b"u": 2,
    b"I": 4,
    b"i": 4,
    b"l": 8,
    b"L": 8,
    b"f": 4,
    b"d": 8,
    b"D": 5,
    b"T": 8,
}
_SIZES |= {b"V": 0, b"\0": 0}
_FIXED = {"octet": 1, "short": 2, "long": 4, "longlong": 8, "timestamp": 8}
_PROPERTY_FLAGS = struct.Struct(">H")
_HEADERS, _BEFORE_HEADERS, _CONTINUED = 0x2000, (0x8000, 0x4000), 0x0001


def check_method(command: type[base.Frame], arguments: bytes) -> None:
    """Check the encoded arguments of a method.

    Raises ValueError if a table or string is malformed or too large.
    """
    checker, offset, in_bits = _Checker(arguments), 0, 0
    for name in command.attributes():
        kind = command.amqp_type(name)
        if kind == "bit":
            offset += in_bits % 8 == 0
            in_bits += 1
            continue
        in_bits = 0
        offset = checker.skip(kind, offset)


def check_properties(payload: bytes) -> int:
    """Check the flags and properties of a content header.

    Return the number of fields in its header table, including nested fields. Raises ValueError if
    the flags or the header table are malformed or too large.
    """
    checker = _Checker(payload)
    (flags,) = _PROPERTY_FLAGS.unpack_from(payload, checker.within(0, 2))
    if flags & _CONTINUED:
        raise ValueError("the flags announce more properties than the basic class has")
    if flags & _HEADERS:
        offset = 2
        for flag in _BEFORE_HEADERS:
            if flags & flag:
                offset = checker.skip("shortstr", offset)
        checker.skip("table", offset)
    return checker.fields


def check_table(table: bytes) -> None:
    """Check an encoded table. Raises ValueError if it is malformed or too large."""
    _Checker(table).skip("table", 0)


def table_fields(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fields of a table that has passed the checks.

    Each item is the field's name, and the field as encoded: name, type and value.
    """
    checker, offset = _Checker(table), 4
    while offset < len(table):
        value_at = checker.skip("shortstr", offset)
        end = checker.value(value_at, 1)
        yield table[offset + 1 : value_at], table[offset:end]
        offset = end


class _Checker:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._end = len(data)
        self.fields = 0

    def within(self, offset: int, size: int) -> int:
        """Return `offset`. Raises ValueError if fewer than `size` bytes follow it."""
        if offset + size > self._end:
            raise ValueError("a field extends beyond the end of the data")
        return offset

    def skip(self, kind: str, offset: int) -> int:
        """Return the end of the argument of type `kind` that starts at `offset`."""
        if kind == "table":
            return self._collection(offset, named=True, depth=1)
        if kind == "shortstr":
            size = 1 + self._data[self.within(offset, 1)]
        elif kind == "longstr":
            size = self._long(offset)
        else:
            size = _FIXED[kind]
        return self.within(offset, size) + size

    def _long(self, offset: int) -> int:
        """Return the size of a value that starts with its length in four bytes."""
        start = self.within(offset, 4)
        return 4 + int.from_bytes(self._data[start : start + 4], "big")

    def _collection(self, offset: int, *, named: bool, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise ValueError(f"fields are nested more than {MAX_DEPTH} deep")
        end = offset + self._long(offset)
        self.within(end, 0)
        offset += 4
        while offset < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            if named:
                offset = self.skip("shortstr", offset)
            offset = self.value(offset, depth)
        if offset != end:
            raise ValueError("a field extends beyond the end of its table")
        return end

    def value(self, offset: int, depth: int) -> int:
        """Return the end of the value whose type octet is at `offset`."""
        kind = self._data[self.within(offset, 1) : offset + 1]
        offset += 1
        if kind in (b"F", b"A"):
            return self._collection(offset, named=kind == b"F", depth=depth + 1)
        size = self._long(offset) if kind in (b"S", b"x") else _SIZES.get(kind)
        if size is None:
            raise ValueError(f"unknown field type {kind!r}")
        return self.within(offset, size) + size

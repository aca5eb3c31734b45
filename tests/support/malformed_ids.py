"""Malformed equipment ids, as they appear in a URL."""

from __future__ import annotations

MALFORMED_IDS = (
    "",
    "A",
    "ABC12",
    "ABC123%0A",
    "%0AABC123",
    "ABC123%0D%0A",
    "ABC%00123",
    "ABC123%00",
    "ABC%20123",
    "ABC123%20",
    "ABC-123",
    "ABC_123",
    "ABC.123",
    "..%2F..%2Fabc",
    "ABC123%2F",
    "ABC%2F123",
    "ABC%2f123",
    "ABC%252F123",
    "ABC123%5C",
    "ABC123;a=b",
    "ABC123%",
    "ABC123%4",
    "ABC123%zz",
    "ABC123+",
    "ABC+123",
    "ABC123%3F",
    "ABC123%23",
    "ABC123#fragment",
    "ABC|123",
    "{id}ABC",
    "<equipment_id>",
    "%D9%A1%D9%A2%D9%A3%D9%A4%D9%A5%D9%A6",  # Arabic digits
    "%D0%90%D0%92%D0%A1123",  # Cyrillic letters that look like ABC
    "%EF%BC%A1%EF%BC%A2%EF%BC%A3123",  # full-width letters
    "%E2%91%A0%E2%91%A1%E2%91%A2%E2%91%A3%E2%91%A4%E2%91%A5",  # circled digits
    "%FF%FE%FD%FC%FB%FA",  # not UTF-8
    "ABC123%C0%AF",  # an overlong slash
    "ABC123%ED%A0%80",  # a surrogate
    "%F0%9F%98%80%F0%9F%98%80%F0%9F%98%80",
)

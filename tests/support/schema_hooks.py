"""Hooks for schemathesis, which imports this module (``SCHEMATHESIS_HOOKS``): rules for bodies that
JSON Schema cannot express.
"""

from __future__ import annotations

import importlib
from typing import Any

hook: Any = importlib.import_module("schemathesis").hook

CHECKED = ("timeoutInSeconds", "username", "password", "vlan", "interfaces")


def filter_body(context: Any, body: Any) -> bool:
    """Skip bodies that are valid only to a schema: integers written as 1.0, and keys that occur
    twice with different values.
    """
    if not isinstance(body, dict):
        return True
    parameters = body.get("parameters")
    items = parameters if isinstance(parameters, list) else [parameters]
    seen: dict[str, Any] = {}
    for item in items:
        for key, value in item.items() if isinstance(item, dict) else ():
            if key in seen and repr(seen[key]) != repr(value):
                return False
            seen[key] = value
    return not any(
        _holds_a_float(value)
        for value in [body.get("timeoutInSeconds"), *(seen.get(key) for key in CHECKED)]
    )


hook(filter_body)


def _holds_a_float(value: Any) -> bool:
    return isinstance(value, float) or (
        isinstance(value, list) and any(isinstance(item, float) for item in value)
    )

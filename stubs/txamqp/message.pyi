from collections.abc import Sequence
from typing import Any

from txamqp.content import Content
from txamqp.spec import Method

class Message:
    # Each field of the method is an attribute.
    method: Any
    content: Content | None

    def __init__(
        self, method: Method, fields: Sequence[object], content: Content | None = None
    ) -> None: ...
    def __getattr__(self, name: str) -> Any: ...

from typing import Any

class Content:
    body: bytes
    properties: Any

    def __init__(
        self, body: bytes = ..., children: None = None, properties: object = None
    ) -> None: ...

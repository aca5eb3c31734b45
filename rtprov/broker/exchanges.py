"""Exchanges: from a routing key to queues (AMQP 0-9-1 §3.1.3)."""

from __future__ import annotations

import re
from functools import lru_cache

import attrs

TYPES = ("direct", "topic", "fanout")


@lru_cache(maxsize=4096)
def _topic_pattern(binding_key: str) -> re.Pattern[str]:
    """``*`` is one word, ``#`` any number of them; words stand between dots."""
    pattern = ""
    for word in binding_key.split("."):
        if word == "#":
            pattern += r"(?:(?:^|\.)[^.]*)*"
        else:
            pattern += r"(?:^|\.)" + (r"[^.]*" if word == "*" else re.escape(word))
    return re.compile(pattern)


def topic_matches(binding_key: str, routing_key: str) -> bool:
    """Whether a topic exchange routes `routing_key` by this binding."""
    if routing_key == "":
        return all(word in ("#", "") for word in binding_key.split("."))
    return _topic_pattern(binding_key).fullmatch(routing_key) is not None


@attrs.define(eq=False)
class Exchange:
    """`bindings` maps a binding key to the names of the queues bound by it, in order (a dict stands for an ordered set)."""

    name: str
    kind: str
    durable: bool
    auto_delete: bool
    internal: bool = False
    bindings: dict[str, dict[str, None]] = attrs.Factory(dict)

    def bind(self, queue: str, key: str) -> None:
        """Binding twice is binding once."""
        self.bindings.setdefault(key, {})[queue] = None

    def unbind(self, queue: str, key: str) -> None:
        """Unbinding what is not bound does nothing."""
        queues = self.bindings.get(key)
        if queues is not None:
            queues.pop(queue, None)
            if not queues:
                del self.bindings[key]

    def unbind_queue(self, queue: str) -> None:
        """The queue is gone."""
        for key in [key for key, queues in self.bindings.items() if queue in queues]:
            self.unbind(queue, key)

    def route(self, routing_key: str) -> list[str]:
        """The queues that a message goes to, each once."""
        if self.kind == "direct":
            return list(self.bindings.get(routing_key, ()))
        found: dict[str, None] = {}
        for key, queues in self.bindings.items():
            if self.kind == "fanout" or topic_matches(key, routing_key):
                found.update(queues)
        return list(found)

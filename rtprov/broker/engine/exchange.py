"""Exchanges: from a routing key to queues (AMQP 0-9-1 §3.1.3)."""

from __future__ import annotations

from functools import lru_cache

import attrs

TYPES = ("direct", "topic", "fanout")


@lru_cache(maxsize=4096)
def topic_matches(binding_key: str, routing_key: str) -> bool:
    """Whether a topic exchange routes by this binding: ``*`` is one word, ``#`` any number of them;
    words stand between dots.

    The time grows with the product of both lengths at most, whatever the pattern.
    """
    pattern = binding_key.split(".") if binding_key else []
    places = _skipping({0}, pattern)  # where in the pattern the words so far may have led
    for word in routing_key.split(".") if routing_key else ():
        taking = [
            place for place in places if place < len(pattern) and pattern[place] in ("#", "*", word)
        ]
        places = _skipping(
            {place if pattern[place] == "#" else place + 1 for place in taking}, pattern
        )
    return len(pattern) in places


def _skipping(places: set[int], pattern: list[str]) -> set[int]:
    """These places, and those behind each ``#`` that stands there, since it may stand for no
    word.
    """
    for place in sorted(places):
        while place < len(pattern) and pattern[place] == "#":
            place += 1
            places.add(place)
    return places


@attrs.define(eq=False)
class Exchange:
    """`bindings` maps a binding key to the names of the queues bound by it, in order (a dict stands
    for an ordered set).
    """

    name: str
    kind: str
    durable: bool
    auto_delete: bool
    internal: bool = False
    bindings: dict[str, dict[str, None]] = attrs.Factory(dict)
    _keys: dict[str, set[str]] = attrs.Factory(dict)  # of each queue that is bound

    def key_count(self, queue: str) -> int:
        """By how many keys a queue is bound."""
        return len(self._keys.get(queue, ()))

    def is_bound(self, queue: str, key: str) -> bool:
        """Whether a queue is bound by this key."""
        return key in self._keys.get(queue, ())

    def bind(self, queue: str, key: str) -> None:
        """Binding twice is binding once."""
        self.bindings.setdefault(key, {})[queue] = None
        self._keys.setdefault(queue, set()).add(key)

    def unbind(self, queue: str, key: str) -> None:
        """Raises KeyError where the queue is not bound by this key."""
        keys = self._keys[queue]
        keys.remove(key)
        if not keys:
            del self._keys[queue]
        queues = self.bindings[key]
        del queues[queue]
        if not queues:
            del self.bindings[key]

    def unbind_queue(self, queue: str) -> bool:
        """The queue is gone. Return whether it was bound."""
        keys = list(self._keys.get(queue, ()))
        for key in keys:
            self.unbind(queue, key)
        return bool(keys)

    def route(self, routing_key: str) -> list[str]:
        """The queues that a message goes to, each once."""
        if self.kind == "direct":
            return list(self.bindings.get(routing_key, ()))
        found: dict[str, None] = {}
        for key, queues in self.bindings.items():
            if self.kind == "fanout" or topic_matches(key, routing_key):
                found.update(queues)
        return list(found)

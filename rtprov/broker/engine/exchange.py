"""Exchanges: map a routing key to queues (AMQP 0-9-1 §3.1.3)."""

from __future__ import annotations

from functools import lru_cache

import attrs

TYPES = ("direct", "topic", "fanout")


@lru_cache(maxsize=4096)
def topic_matches(binding_key: str, routing_key: str) -> bool:
    """Return whether the binding key of a topic exchange matches the routing key.

    Words are separated by dots. ``*`` matches one word, ``#`` any number of words. The time is at
    most proportional to the product of both lengths.
    """
    pattern = binding_key.split(".") if binding_key else []
    places = _skipping({0}, pattern)  # indexes in the pattern where the next word may match
    for word in routing_key.split(".") if routing_key else ():
        taking = [
            place for place in places if place < len(pattern) and pattern[place] in ("#", "*", word)
        ]
        places = _skipping(
            {place if pattern[place] == "#" else place + 1 for place in taking}, pattern
        )
    return len(pattern) in places


def _skipping(places: set[int], pattern: list[str]) -> set[int]:
    """Add to `places` the index after each ``#`` there, because ``#`` may match no word."""
    for place in sorted(places):
        while place < len(pattern) and pattern[place] == "#":
            place += 1
            places.add(place)
    return places


@attrs.define(eq=False)
class Exchange:
    """One exchange and its bindings.

    `bindings` maps a binding key to the names of the queues bound with it, in order. The inner dict
    is used as an ordered set.
    """

    name: str
    kind: str
    durable: bool
    auto_delete: bool
    internal: bool = False
    bindings: dict[str, dict[str, None]] = attrs.Factory(dict)
    _keys: dict[str, set[str]] = attrs.Factory(dict)  # binding keys by queue

    def key_count(self, queue: str) -> int:
        """Return the number of keys with which a queue is bound."""
        return len(self._keys.get(queue, ()))

    def is_bound(self, queue: str, key: str) -> bool:
        """Return whether a queue is bound with this key."""
        return key in self._keys.get(queue, ())

    def bind(self, queue: str, key: str) -> None:
        """Bind a queue. Does nothing if it is bound with this key already."""
        self.bindings.setdefault(key, {})[queue] = None
        self._keys.setdefault(queue, set()).add(key)

    def unbind(self, queue: str, key: str) -> None:
        """Remove a binding. Raises KeyError if the queue is not bound with this key."""
        keys = self._keys[queue]
        keys.remove(key)
        if not keys:
            del self._keys[queue]
        queues = self.bindings[key]
        del queues[queue]
        if not queues:
            del self.bindings[key]

    def unbind_queue(self, queue: str) -> bool:
        """Remove all bindings of a queue. Return whether there were any."""
        keys = list(self._keys.get(queue, ()))
        for key in keys:
            self.unbind(queue, key)
        return bool(keys)

    def route(self, routing_key: str) -> list[str]:
        """Return the names of the queues for a message, each once."""
        if self.kind == "direct":
            return list(self.bindings.get(routing_key, ()))
        found: dict[str, None] = {}
        for key, queues in self.bindings.items():
            if self.kind == "fanout" or topic_matches(key, routing_key):
                found.update(queues)
        return list(found)

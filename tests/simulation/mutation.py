"""One bug put in on purpose, and the list of all: see `mutations`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from tests.simulation.knobs import patched


@frozen
class Mutation:
    """`replace` is what stands in for `name` of `target` while it is switched on."""

    target: Any
    name: str
    replace: Any

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """Make the mistake for a while."""
        with patched(self.target, self.name, self.replace):
            yield


MUTATIONS: dict[str, Mutation] = {}


def mutation(name: str, target: Any, attribute: str) -> Callable[[Any], Any]:
    """Register the decorated function as what stands in for `attribute` of `target`."""

    def register(replace: Any) -> Any:
        MUTATIONS[name] = Mutation(target, attribute, replace)
        return replace

    return register

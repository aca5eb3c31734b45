"""The class of mutations, and the registry of all of them. See `mutations`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from tests.simulation.knobs import patched


@frozen
class Mutation:
    """A bug put in on purpose: while it is switched on, `replace` replaces attribute `name` of
    `target`.
    """

    target: Any
    name: str
    replace: Any

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """Have the bug within the context."""
        with patched(self.target, self.name, self.replace):
            yield


MUTATIONS: dict[str, Mutation] = {}


def mutation(name: str, target: Any, attribute: str) -> Callable[[Any], Any]:
    """Register the decorated function as the replacement of `attribute` of `target`."""

    def register(replace: Any) -> Any:
        MUTATIONS[name] = Mutation(target, attribute, replace)
        return replace

    return register

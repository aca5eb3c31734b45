from collections.abc import Iterator
from types import FunctionType
from typing import Any

class SpecContainer:
    byname: dict[str, Any]
    byid: dict[int, Any]

    def add(self, item: object) -> None: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...

class Spec:
    constants: SpecContainer
    classes: SpecContainer
    klass: type

    def __init__(self, major: int, minor: int, file: str) -> None: ...
    def define_class(self, name: str) -> type: ...

class Constant:
    id: int

    def __init__(
        self, spec: Spec, name: str, id: int, klass: str | None, docs: list[str]
    ) -> None: ...

class Class:
    name: str
    id: int
    methods: SpecContainer

    def __init__(self, spec: Spec, name: str, id: int, handler: str, docs: list[str]) -> None: ...

class Method:
    name: str
    id: int
    klass: Class
    content: bool
    fields: SpecContainer
    responses: list[Method]
    response: bool

    def __init__(
        self,
        klass: Class,
        name: str,
        id: int,
        content: bool,
        responses: list[Any],
        synchronous: bool,
        description: str,
        docs: list[str],
    ) -> None: ...
    def define_method(self, name: str) -> FunctionType: ...

class Field:
    def __init__(self, name: str, id: int, type: str, docs: list[str]) -> None: ...

def pythonize(name: str) -> str: ...

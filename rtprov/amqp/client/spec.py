"""The AMQP 0-9-1 specification in txAMQP's form, built from pamqp's method tables.

txAMQP reads a specification from an XML file, but does not install one. pamqp has the same tables,
including RabbitMQ's extensions (confirms, ``basic.nack``, ``connection.blocked``). `SPEC` and
`METHODS` are built once, when this module is imported.
"""

from __future__ import annotations

import inspect
import re
from types import FunctionType

from pamqp import base, commands

from rtprov.amqp.client._txamqp import Class, Constant, Field, Method, Spec
from rtprov.amqp.framing import WITH_CONTENT

_CONSTANTS = {
    "frame-method": 1,
    "frame-header": 2,
    "frame-body": 3,
    "frame-heartbeat": 8,
    "frame-end": 206,
}


class PamqpMethod(Method):
    """A method of the specification, with its pamqp class.

    `command` is the pamqp class that encodes and decodes it. `nowait` is the index of the no-wait
    bit among its fields, or None if it has none.
    """

    command: type[base.Frame]
    nowait: int | None = None

    def define_method(self, name: str) -> FunctionType:
        """Generate the channel's method, with pamqp's default arguments if it has any.

        txAMQP has one default for each type, which is wrong for some fields.
        """
        function = super().define_method(name)
        defaults = list(function.__defaults__ or ())
        for position, parameter in enumerate(inspect.signature(self.command).parameters.values()):
            if parameter.default is not None:
                defaults[position] = parameter.default
        function.__defaults__ = tuple(defaults)
        return function


def build_spec() -> Spec:
    """Build the specification from pamqp's tables. Takes some milliseconds."""
    spec = Spec(0, 9, "pamqp")
    for name, value in _CONSTANTS.items():
        spec.constants.add(Constant(spec, name, value, None, []))
    table: dict[int, type[base.Frame]] = commands.INDEX_MAPPING
    for index, command in sorted(table.items()):
        class_name = command.name.partition(".")[0].lower()
        if class_name not in spec.classes.byname:
            spec.classes.add(Class(spec, class_name, index >> 16, class_name, []))
        klass = spec.classes.byname[class_name]
        klass.methods.add(_method(klass, index & 0xFFFF, command))
    for klass in spec.classes:
        for method in klass.methods:
            method.responses = [
                klass.methods.byname[_hyphenated(name)] for name in method.command.valid_responses
            ]
            for response in method.responses:
                response.response = True
    spec.klass = spec.define_class("Amqp091")
    return spec


def _method(klass: Class, method_id: int, command: type[base.Frame]) -> PamqpMethod:
    description = inspect.getdoc(command) or ""
    content = issubclass(command, WITH_CONTENT)
    method = PamqpMethod(
        klass,
        _hyphenated(command.name),
        method_id,
        content,
        [],
        command.synchronous,
        description,
        [],
    )
    method.command = command
    for position, slot in enumerate(command.attributes()):
        # pamqp names the field `global_`, the protocol `global`. txAMQP escapes keywords itself.
        method.fields.add(Field(slot.rstrip("_"), position, command.amqp_type(slot), []))
        if slot == "nowait":
            method.nowait = position
    return method


def _hyphenated(name: str) -> str:
    """Return a method's name as in the AMQP specification: ``declare-ok`` for ``DeclareOk``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name.partition(".")[2]).lower()


SPEC = build_spec()
METHODS: dict[type[base.Frame], PamqpMethod] = {
    method.command: method for klass in SPEC.classes for method in klass.methods
}

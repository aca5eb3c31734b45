"""The specification from which txAMQP generates its methods."""

from __future__ import annotations

import inspect

from pamqp import base, commands
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client._txamqp import pythonize
from rtprov.amqp.client.channel import CHANNEL_CLASS
from rtprov.amqp.client.methods import Methods
from rtprov.amqp.client.spec import METHODS, SPEC, build_spec

TYPES = {"bit", "shortstr", "longstr", "table", "octet", "short", "long", "longlong", "timestamp"}


class SpecTests(SynchronousTestCase):
    def test_complete(self) -> None:
        """All of pamqp's methods are included, with their numbers and fields."""
        self.assertEqual(len(METHODS), len(commands.INDEX_MAPPING))
        table: dict[int, type[base.Frame]] = commands.INDEX_MAPPING
        for index, command in table.items():
            method = METHODS[command]
            self.assertEqual((method.klass.id, method.id), (index >> 16, index & 0xFFFF))
            self.assertEqual(
                [pythonize(field.name) for field in method.fields], list(command.attributes())
            )
            self.assertLessEqual({field.type for field in method.fields}, TYPES)

    def test_extensions(self) -> None:
        """RabbitMQ's extensions are included: confirms, negative acknowledgements, blocked
        connections.
        """
        for klass, method in (
            ("confirm", "select"),
            ("confirm", "select-ok"),
            ("basic", "nack"),
            ("connection", "blocked"),
            ("connection", "unblocked"),
        ):
            self.assertIn(method, SPEC.classes.byname[klass].methods.byname)

    def test_answers(self) -> None:
        """Each method lists its answers, and each answer is marked as one."""
        get, declare = METHODS[commands.Basic.Get], METHODS[commands.Queue.Declare]
        self.assertEqual([answer.name for answer in get.responses], ["get-ok", "get-empty"])
        self.assertTrue(all(answer.response for answer in get.responses))
        self.assertFalse(declare.response)
        self.assertEqual(METHODS[commands.Basic.Ack].responses, [])

    def test_content(self) -> None:
        """The methods with content are marked."""
        marked = {command.name for command, method in METHODS.items() if method.content}
        self.assertEqual(marked, {"Basic.Publish", "Basic.Return", "Basic.Deliver", "Basic.GetOk"})

    def test_nowait(self) -> None:
        """The no-wait flag is found for each method that has one."""
        self.assertEqual(METHODS[commands.Queue.Declare].nowait, 6)
        self.assertIsNone(METHODS[commands.Queue.Unbind].nowait)

    def test_generated_as_spelt_out(self) -> None:
        """The generated methods have the names and arguments that `Methods` declares for the type
        checker.
        """
        spelt = {
            name: function
            for name, function in vars(Methods).items()
            if inspect.isfunction(function) and not name.startswith("_")
        }
        self.assertGreater(len(spelt), 15)
        for name, function in spelt.items():
            generated = getattr(CHANNEL_CLASS, name)
            self.assertEqual(
                list(inspect.signature(generated).parameters),
                list(inspect.signature(function).parameters),
                name,
            )

    def test_every_default_fits(self) -> None:
        """Each generated method's defaults can be encoded."""
        for klass in build_spec().classes:
            for method in klass.methods:
                defaults = (
                    getattr(CHANNEL_CLASS, pythonize(f"{klass.name}_{method.name}")).__defaults__
                    or ()
                )
                method.command(*defaults[: len(method.fields)]).marshal()

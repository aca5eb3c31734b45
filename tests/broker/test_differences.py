"""Differences of later RabbitMQ versions are marked in the contract tests and listed in the
documentation.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tests.broker
from tests.support.broker_cases import BrokerContract, Difference

PAGE = Path(__file__).parents[2] / "docs" / "embedded-broker.md"


class DifferenceTests(SynchronousTestCase):
    def differences(self) -> Iterator[tuple[type[BrokerContract], Difference]]:
        """Return the marked tests of a contract, with their classes."""
        for module in pkgutil.walk_packages(tests.broker.__path__, "tests.broker."):
            for kind in vars(importlib.import_module(module.name)).values():
                if (
                    isinstance(kind, type)
                    and issubclass(kind, BrokerContract)
                    and kind.__name__.endswith("Contract")
                ):
                    for test in vars(kind).values():
                        if (difference := getattr(test, "difference", None)) is not None:
                            yield kind, difference

    def test_said_in_the_test(self) -> None:
        """For each difference there is a method that tests the other behaviour."""
        found = list(self.differences())
        self.assertGreater(len(found), 0)
        for kind, difference in found:
            self.assertTrue(getattr(kind, difference.instead).__doc__, difference)

    def test_said_in_the_documentation(self) -> None:
        """The page on the embedded broker has a line for each reason."""
        lines = set(PAGE.read_text().splitlines())
        told = {
            f"| {'.'.join(map(str, each.since))} | {each.because} |"
            for _, each in self.differences()
        }
        self.assertEqual(sorted(told - lines), [])

"""The examples of the OpenAPI document are answers that ``docs/api.md`` prints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from rtprov.frontend import schemas
from rtprov.frontend.openapi import document
from rtprov.frontend.openapi_examples import ANSWERS

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def printed() -> list[Any]:
    """Return all JSON objects that the guide prints, without the ids of tasks without a key."""
    text = GUIDE.read_text("utf-8")
    lines = re.findall(r'^(\{"code":.*\})(?: \(\d.*\))?$', text, re.MULTILINE)
    return [json.loads(line) for line in lines]


def operations() -> Iterator[dict[str, Any]]:
    for item in document()["paths"].values():
        yield from (each for method, each in item.items() if method != "parameters")


class Examples(SynchronousTestCase):
    def test_real(self) -> None:
        """Every example is an answer that the guide prints, so that a test has seen it."""
        known = printed()
        count = 0
        for operation in operations():
            for response in operation["responses"].values():
                content = response.get("content", {}).get("application/json", {})
                for name, example in content.get("examples", {}).items():
                    count += 1
                    value = example["value"]
                    if value not in known:
                        self.assertIn(
                            value.get("task"),
                            [task for each in known for task in each.get("tasks", [])],
                            f"{operation['operationId']}: {name}",
                        )
        self.assertGreater(count, 12)

    def test_of_their_types(self) -> None:
        """Every example has the form of its schema."""
        for operation in operations():
            for response in operation["responses"].values():
                content = response.get("content", {}).get("application/json", {})
                for example in content.get("examples", {}).values():
                    kind = getattr(schemas, content["schema"]["$ref"].rpartition("/")[2])
                    msgspec.convert(example["value"], kind)

    def test_success_of_each(self) -> None:
        """Every operation on the tasks of a device has an example of success and of an error."""
        for operation in operations():
            if operation["operationId"] in ANSWERS.keys() - {"getLivez", "getReadyz"}:
                shown = {
                    status
                    for status, response in operation["responses"].items()
                    if "examples" in response.get("content", {}).get("application/json", {})
                }
                self.assertIn("200", shown, operation["operationId"])
                self.assertGreater(len(shown), 1, operation["operationId"])

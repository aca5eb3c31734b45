"""Rules for the stub of A: which answer for which serial, built in or from a TOML file.

A file looks like this::

    [[rule]]
    match = "SLOW.*"       # a regular expression for the whole serial
    answer = 200           # 200, 404, 500, 503, "hang", "drop" or "garbage"
    delay = 90.0           # seconds; the default is the stub's --delay
    retry_after = 5        # seconds, for a 503
    times = 2              # applies to the first two calls for each serial; then later rules apply
"""

from __future__ import annotations

import re
import sys
from typing import Annotated, Any, Literal

import attrs
import msgspec
from msgspec import Meta

from rtprov.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Answer = Literal[200, 404, 500, 503, "hang", "drop", "garbage"]


@attrs.frozen
class Rule:
    """The stub's answer for serials that `match` matches completely.

    `delay` and `retry_after` are seconds. The rule applies to the first `times` calls for each
    serial, or always if that is None.
    """

    match: re.Pattern[str]
    answer: Answer
    delay: float | None = None
    retry_after: int | None = None
    times: int | None = None


BUILT_IN = (
    Rule(re.compile("NOTFOUND.*"), 404),
    Rule(re.compile("FAIL.*"), 500),
    Rule(re.compile("HANG.*"), "hang"),
    Rule(re.compile("DROP.*"), "drop"),
    Rule(re.compile("GARBAGE.*"), "garbage"),
    Rule(re.compile("BUSY.*"), 503, retry_after=1, times=2),
)


class _Rule(msgspec.Struct, forbid_unknown_fields=True):
    match: str
    answer: Answer
    delay: Annotated[float, Meta(ge=0, le=86400)] | None = None
    retry_after: Annotated[int, Meta(ge=0, le=86400)] | None = None
    times: Annotated[int, Meta(ge=1)] | None = None


class _Scenario(msgspec.Struct, forbid_unknown_fields=True):
    rule: list[Any] = []


def load_scenario(text: str) -> tuple[Rule, ...]:
    """Parse a scenario.

    Raises `ConfigurationError` that names the rule, counted from 1, and the key.
    """
    try:
        document = tomllib.loads(text)
    # TOMLDecodeError is a ValueError; an integer of thousands of digits raises another one.
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"not TOML: {error}") from None
    try:
        scenario = msgspec.convert(document, _Scenario)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"expected tables [[rule]] only: {error}") from None
    return tuple(_rule(number, table) for number, table in enumerate(scenario.rule, 1))


def _rule(number: int, table: Any) -> Rule:
    try:
        rule = msgspec.convert(table, _Rule)
        match = re.compile(rule.match)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"rule {number}: {_explain(str(error))}") from None
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigurationError(
            f"rule {number}: match: not a regular expression: {error}"
        ) from None
    return Rule(match, rule.answer, rule.delay, rule.retry_after, rule.times)


def _explain(message: str) -> str:
    """Return msgspec's message with its place in front: ``answer: invalid enum value …``."""
    text, _, place = message.partition(" - at `$.")
    if place.startswith("answer"):
        text = 'expected 200, 404, 500, 503, "hang", "drop" or "garbage"'
    return f"{place.rstrip('`')}: {text}" if place else text

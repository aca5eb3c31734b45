"""Command-line options that are also read from environment variables.

``--broker`` is also read from ``RTPROV_BROKER``; the command line takes precedence. A wrong value,
from either source, ends the command with one line on standard error and exit status 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import attrs
from twisted.python import usage

from rtprov import __version__
from rtprov.errors import ConfigurationError
from rtprov.tap.environment_variables import lookup, variable
from rtprov.tap.exit_status import Ending


@attrs.frozen
class Option:
    """An option of one or more commands.

    `default` is the text that a user would write, or None. `parse` converts the text to the value;
    it raises ValueError with a message for the user. A `flag` has no text: it is on or off. The
    value of a `repeatable` option is a list; its variable separates the values by commas.
    """

    name: str
    default: str | None
    help: str
    parse: Callable[[str], Any] = str
    flag: bool = False
    repeatable: bool = False

    @property
    def variable(self) -> str:
        """The name of the environment variable that sets the option for all commands."""
        return variable(self.name)

    @property
    def description(self) -> str:
        """The option's text in ``--help``."""
        default = (
            f" [default: {self.default}]" if self.default is not None and not self.flag else ""
        )
        return f"{self.help}{default} (${self.variable})"


class CommandOptions(usage.Options):
    """Base class of the options of the five commands.

    A subclass sets `command`, `options` and `longdesc`. After parsing, the values are items of this
    mapping, by the options' names.
    """

    command: ClassVar[str]
    options: ClassVar[tuple[Option, ...]]
    optParameters: ClassVar[list[list[Any]]]
    optFlags: ClassVar[list[list[Any]]]

    def __init_subclass__(cls) -> None:
        plain = [option for option in cls.options if not option.flag and not option.repeatable]
        cls.optParameters = [[option.name, None, None, option.description] for option in plain]
        cls.optFlags = [
            [option.name, None, option.description] for option in cls.options if option.flag
        ]
        for option in cls.options:
            if option.repeatable:
                setattr(cls, f"opt_{option.name.replace('-', '_')}", _collector(option))

    def __init__(self) -> None:
        super().__init__()
        self.collected: dict[str, list[str]] = {}
        # The source of each option that was given, by its name: "--listen", "RTPROV_LISTEN".
        self.sources: dict[str, str] = {}
        self.ending: Ending

    def getSynopsis(self) -> str:
        return f"Usage: twistd [twistd options] {self.command} [options]"

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            # The argument may be a misplaced URL with a password: it is not shown.
            raise usage.UsageError(
                "unexpected argument: this command takes options only, see --help"
            )

    def opt_version(self) -> None:
        """Show rtprov's version and exit."""
        print(f"rtprov {__version__}")  # noqa: T201 - the command's answer
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line and the environment. Raises SystemExit with one line on errors."""
        self.ending = Ending(self.command, self.parent)
        self.ending.install()
        try:
            super().parseOptions(options)
        except (usage.UsageError, ConfigurationError) as error:
            text = str(error)
            # The text may be a misplaced broker URL with a password.
            if "://" in text and isinstance(error, usage.UsageError):
                text = "an option is not recognized, see --help"
            raise SystemExit(f"{self.command}: {text}") from None

    def postOptions(self) -> None:
        """Set every option's value."""
        for option in self.options:
            self._fill_in(option)
        self.check()

    def _fill_in(self, option: Option) -> None:
        name, found = option.name, lookup(option.name, self.command, os.environ)
        # usage.Options sets a flag that is off to 0.
        given = self.collected.get(name) or [
            text for text in [self.get(name)] if text not in (None, 0)
        ]
        if given:
            source, texts = f"--{name}", given
        elif found is not None:
            source, texts = found[0], [found[1]]
            if option.repeatable:
                texts = [text.strip() for text in found[1].split(",")]
        else:
            source, texts = "", []
        if source:
            self.sources[name] = source
        if option.flag:
            self[name] = source == f"--{name}" or any(_yes(source, text) for text in texts)
        elif option.repeatable:
            self[name] = [_parse(option, text, source) for text in texts]
        elif texts:
            self[name] = _parse(option, texts[0], source)
        elif option.default is not None:
            self[name] = option.parse(option.default)

    def check(self) -> None:
        """Check combinations of options. Raises `ConfigurationError`."""

    def exclude(self, one: str, other: str) -> None:
        """Raise `ConfigurationError` if both options were given."""
        if one in self.sources and other in self.sources:
            raise ConfigurationError(
                f"{self.sources[one]} and {self.sources[other]} cannot be used together: give one"
                " of them"
            )


S = TypeVar("S", bound="CommandSettings")


@attrs.frozen
class CommandSettings:
    """Base class of the settings of the five commands.

    A subclass has one field for each option of its command, with the same name, but "_" instead
    of "-".
    """

    no_gc_tuning: bool

    @classmethod
    def from_options(cls: type[S], options: CommandOptions) -> S:
        """Return the settings with the values of the parsed `options`."""
        names = [field.name for field in attrs.fields(cls)]
        return cls(**{name: options[name.replace("_", "-")] for name in names})


def _collector(option: Option) -> Callable[[CommandOptions, str], None]:
    def collect(self: CommandOptions, value: str) -> None:
        self.collected.setdefault(option.name, []).append(value)

    collect.__doc__ = option.description
    return collect


def _parse(option: Option, text: str, source: str) -> Any:
    try:
        return option.parse(text)
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"{source}: {error}") from None


def _yes(source: str, text: str) -> bool:
    word = text.lower()
    if word not in ("0", "1", "false", "true", "no", "yes", "off", "on"):
        raise ConfigurationError(f"{source}: expected yes or no")
    return word in ("1", "true", "yes", "on")

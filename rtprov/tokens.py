"""Bearer tokens (RFC 6750): the file that says whose are let in, and ``python -m rtprov.tokens new NAME``, which makes one.

The file holds a token a line, as a name and the SHA-256 of the token; the token itself is only shown when it is made. A third word,
``read``, makes a token that may ask for statuses and nothing else. Lines that are empty or begin with ``#`` say nothing::

    # who       which                                                                  what
    billing     sha256:8a1f…64 hexadecimal digits…
    dashboard   sha256:03cd…                                                           read

A token is 32 random bytes, so a plain hash of it is as good as a slow one: there is nothing to guess.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import re
import secrets
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from rtprov.errors import ConfigurationError
from rtprov.tls import read_text

MAX_TOKENS = 1000
READ = "read"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


@attrs.frozen
class Token:
    """What the file tells of a token: whose it is, its SHA-256, and whether it is for reading only."""

    name: str
    digest: bytes = attrs.field(repr=False)
    read_only: bool = False

    @property
    def line(self) -> str:
        """The token's line in the file."""
        return f"{self.name} sha256:{self.digest.hex()}{f' {READ}' if self.read_only else ''}"


def parse_tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a file's text. There may be none: nobody is let in. Raises `ConfigurationError` that names the line, and no hash."""
    tokens: dict[str, Token] = {}
    digests: set[bytes] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        token = _parse_line(words, number)
        if token.name in tokens:
            raise ConfigurationError(f"line {number}: there is another token of the name {token.name}")
        if token.digest in digests:
            raise ConfigurationError(f"line {number}: this token has another name already")
        tokens[token.name] = token
        digests.add(token.digest)
    if len(tokens) > MAX_TOKENS:
        raise ConfigurationError(f"holds more than {MAX_TOKENS} tokens")
    return tuple(tokens.values())


def _parse_line(words: Sequence[str], number: int) -> Token:
    name, hashed, *rest = (*words, "")[: max(2, len(words))]
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"line {number}: a name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit")
    match = _HASH.fullmatch(hashed)
    if match is None or rest not in ([], [READ]):
        raise ConfigurationError(f"line {number}: expected NAME sha256:HASH, with 64 lower-case hexadecimal digits, and perhaps {READ}")
    return Token(name, bytes.fromhex(match[1]), bool(rest))


def load_tokens(path: Path) -> tuple[Token, ...]:
    """The file's tokens. Raises `ConfigurationError`."""
    text = read_text(path, "tokens")
    try:
        return parse_tokens(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def find_token(tokens: Iterable[Token], shown: bytes) -> Token | None:
    """The token that was shown, None where it is none of these.

    Each is compared, whole, whether or not an earlier one was it: how long it takes tells nothing of how near a guess came.
    """
    digest = hashlib.sha256(shown).digest()
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def new_token(name: str, *, read_only: bool = False) -> tuple[Token, str]:
    """A new token as the file knows it, and as its client does."""
    secret = secrets.token_urlsafe(32)
    return Token(name, hashlib.sha256(secret.encode()).digest(), read_only), secret


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rtprov.tokens", description="Make bearer tokens for the front end's --tokens file.")
    new = parser.add_subparsers(required=True, metavar="new").add_parser("new", help="make a token and print it, this once")
    new.add_argument("name", metavar="NAME", help="whose it is: the name that audit lines and --rate go by")
    new.add_argument("--read", action="store_true", help="a token that may ask for statuses and nothing else")
    options = parser.parse_args(arguments)
    if not _NAME.fullmatch(options.name):
        print("rtprov.tokens: a name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit", file=sys.stderr)  # noqa: T201
        return 1
    token, secret = new_token(options.name, read_only=options.read)
    print(f"# for the --tokens file:\n{token.line}\n# for the client, shown this once:\n{secret}")  # noqa: T201 - the command's answer
    return 0


if __name__ == "__main__":
    sys.exit(main())

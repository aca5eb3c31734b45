"""Where the front end is, and how a verb logs in there.

Each setting comes from the first of: an option, an environment variable, the profile in
``~/.config/rtprov.toml``, and the development set-up of the current folder
(``https://localhost:8443``, ``certs/ca.pem``)::

    default = "office"

    [profiles.office]
    url = "https://b.example:8443"
    ca = "/etc/rtprov/ca.pem"
    token_file = "~/.config/rtprov.token"
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from rtprov.cli.failures import Status, VerbFailed
from rtprov.cli.files import read_text
from rtprov.errors import ConfigurationError
from rtprov.network.hosts import parse_https_url
from rtprov.security.files import is_there

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEVELOPMENT_URL = "https://localhost:8443"
DEVELOPMENT_CA = "certs/ca.pem"
VARIABLES = {
    "url": "RTPROV_API_URL",
    "ca": "RTPROV_API_CA",
    "token_file": "RTPROV_API_TOKEN_FILE",
    "certificate": "RTPROV_API_CERT",
    "private_key": "RTPROV_API_KEY",
}
PROFILE_VARIABLE = "RTPROV_API_PROFILE"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1


@frozen
class Profile:
    """One front end: its URL, the CA that signed its certificate, and the caller's credentials."""

    url: str
    ca: Path
    token_file: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    def token(self) -> str | None:
        """Return the bearer token, None if there is no token file. Raises `VerbFailed`."""
        if self.token_file is None:
            return None
        text = read_text(self.token_file, "token").strip()
        if not _TOKEN.fullmatch(text):
            raise _refused(
                f"{self.token_file}: expected one token, and nothing else; the line with sha256: is"
                " for the server's tokens file"
            )
        return text


def _refused(message: str) -> VerbFailed:
    return VerbFailed(message, Status.USAGE)


def variables_of(option: str, *roles: str) -> list[str]:
    """Return the variables that set a command's option, those of one role's command first."""
    return [*(f"RTPROV_{role}_{option}" for role in roles), f"RTPROV_{option}"]


def config_file(environ: Mapping[str, str], home: Path) -> Path:
    """Return the path of the file with profiles, which need not exist."""
    folder = environ.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else home / ".config") / "rtprov.toml"


def read_profiles(file: Path) -> tuple[str | None, dict[str, dict[str, str]]]:
    """Return the name of the default profile, and all profiles of the file.

    Both are empty if there is no file. Raises `VerbFailed` if the file is invalid.
    """
    try:
        if not is_there(file):
            return None, {}
        document = tomllib.loads(read_text(file, "profiles"))
    except ConfigurationError as error:
        raise _refused(str(error)) from None
    except tomllib.TOMLDecodeError as error:
        raise _refused(f"{file}: {error}") from None
    default, profiles = document.pop("default", None), document.pop("profiles", {})
    if document:
        raise _refused(f"{file}: {next(iter(document))}: expected default and [profiles.NAME]")
    if not isinstance(profiles, dict) or not isinstance(default, (str, type(None))):
        raise _refused(f"{file}: expected default, a name, and tables [profiles.NAME]")
    for name, settings in profiles.items():
        if not isinstance(settings, dict):
            raise _refused(f"{file}: profiles.{name}: expected a table")
        for key, value in settings.items():
            if key not in VARIABLES or not isinstance(value, str):
                raise _refused(
                    f"{file}: profiles.{name}.{key}: expected a text for one of"
                    f" {', '.join(VARIABLES)}"
                )
    return default, profiles


def find_profile(
    given: Mapping[str, str | None], name: str | None, environ: Mapping[str, str], home: Path
) -> Profile:
    """Return the front end's profile.

    `given` are the options, with the keys of `VARIABLES`; `name` is the profile that was named, or
    None. Raises `VerbFailed` if a setting is invalid.
    """
    file = config_file(environ, home)
    default, profiles = read_profiles(file)
    chosen = name or environ.get(PROFILE_VARIABLE) or default
    if chosen is not None and chosen not in profiles:
        there = ", ".join(profiles) or "none"
        raise _refused(f"{file}: there is no profile {chosen}; there are: {there}")
    stored = profiles[chosen] if chosen is not None else {}
    values, sources = {}, {}
    for key, variable in VARIABLES.items():
        for source, value in (
            (f"--{key.replace('_', '-')}", given.get(key)),
            (variable, environ.get(variable)),
            (f"{file}: {key}", stored.get(key)),
        ):
            if value:
                values[key], sources[key] = value, source
                break
    try:
        url = parse_https_url(values.get("url", DEVELOPMENT_URL))
    except ValueError as error:
        raise _refused(f"{sources['url']}: {error}") from None
    if ("certificate" in values) != ("private_key" in values):
        one = "certificate" if "certificate" in values else "private_key"
        raise _refused(f"{sources[one]}: a certificate and its private key belong together")
    paths = {key: _path(value, home) for key, value in values.items() if key != "url"}
    return Profile(url, paths.pop("ca", Path(DEVELOPMENT_CA)), **paths)


def _path(text: str, home: Path) -> Path:
    return home / text[2:] if text.startswith("~/") else Path(text)

"""``python -m rtprov.health [URL]`` asks a process of rtprov whether it is ready.

For container health checks and scripts: no curl is needed, and nothing but the standard library is
imported. Exit status: 0 ready, 1 not ready or out of reach, 2 usage.

Without a URL, the ports in `VARIABLES` are asked in that order: those of one command, such as
``RTPROV_FRONTEND_HEALTH_LISTEN``, and then ``RTPROV_HEALTH_LISTEN``. The first process that is
reached counts: in a container only one runs.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException

TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 4096
VARIABLES = (
    "RTPROV_FRONTEND_HEALTH_LISTEN",
    "RTPROV_WORKER_HEALTH_LISTEN",
    "RTPROV_STUB_HEALTH_LISTEN",
    "RTPROV_BROKER_HEALTH_LISTEN",
    "RTPROV_HEALTH_LISTEN",
)
_SEPARATOR = re.compile(r"(?<!\\):")  # of the arguments of Twisted's endpoint descriptions
_POSITIONAL = ("port", "interface")
_ANY = {"tcp": "0.0.0.0", "tcp6": "::"}  # noqa: S104 - only compared
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only compared


def url_of(listen: str) -> str | None:
    """The URL of ``/readyz`` for the value of ``--health-listen``; None if it is not a TCP port."""
    kind, *arguments = _SEPARATOR.split(listen)
    if kind not in _ANY:
        return None
    positional = [each for each in arguments if "=" not in each]
    values = dict(zip(_POSITIONAL, positional, strict=False))
    values |= dict(each.split("=", 1) for each in arguments if "=" in each)
    try:
        port = int(values.get("port", ""))
    except ValueError:
        return None
    host = values.get("interface", "").replace("\\:", ":") or _ANY[kind]
    host = _LOOPBACK.get(host, host)
    return f"http://[{host}]:{port}/readyz" if ":" in host else f"http://{host}:{port}/readyz"


def urls_of(environment: Mapping[str, str]) -> list[str]:
    """The URLs to ask, each once, in the order of `VARIABLES`."""
    urls = (url_of(environment.get(name, "")) for name in VARIABLES)
    return list(dict.fromkeys(url for url in urls if url is not None))


def ask(url: str, timeout_s: float) -> tuple[bool | None, str]:
    """Whether the process behind `url` is ready, and its answer or what went wrong; None if the
    process cannot be reached.
    """
    if not url.startswith(("http://", "https://")):
        return None, f"expected an http or https URL, not {url}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    status = ""
    try:
        try:
            answer = opener.open(url, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            answer = error
        status = f" (HTTP {answer.status})"
        with answer:
            text = answer.read(MAX_ANSWER_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        reached = False if status else None
        return reached, f"cannot reach {url}{status}: {getattr(error, 'reason', error)}"
    except HTTPException as error:  # its text may be what the server has sent
        return False, f"cannot reach {url}{status}: {error!r}"
    return not isinstance(answer, urllib.error.HTTPError), text


def main(
    arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ
) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rtprov.health",
        description="Ask a process of rtprov whether it is ready. Exit status: 0 ready, 1 not.",
    )
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="such as http://127.0.0.1:8080/readyz (default: from $RTPROV_HEALTH_LISTEN and"
        " the like of each command)",
    )
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="default: 5"
    )
    options = parser.parse_args(arguments)
    urls = [options.url] if options.url else urls_of(environment)
    if not urls:
        parser.error("give a URL, or set RTPROV_HEALTH_LISTEN to a TCP port such as tcp:8080")
    texts = []
    for url in urls:
        ready, text = ask(url, options.timeout)
        if ready is not None:
            texts = [text.strip()]
            break
        texts.append(text.strip())
    print("\n".join(texts), file=sys.stdout if ready else sys.stderr)
    return 0 if ready else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""Checks of what rtprov connects to: service B, the broker, and service A."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from twisted.web.http_headers import Headers

from rtprov import __version__
from rtprov.cli.answer import Answer
from rtprov.cli.api import API, Api
from rtprov.cli.doctor.finding import Check, Finding
from rtprov.cli.failures import VerbFailed
from rtprov.errors import BrokerError, ConfigurationError
from rtprov.network.hosts import for_treq

if TYPE_CHECKING:
    from treq.client import HTTPClient
    from twisted.internet.interfaces import IReactorTime

MAX_SKEW_S = 5.0
WITHIN_S = 15.0  # longer than connecting may take
_HINTS = (
    ("Connection refused", "start the front end, or name its address with --url"),
    ("was not found", "correct the host in --url, or the name server of this machine"),
    ("no trusted CA", "give the CA that signed its certificate with --ca"),
    ("is not a trusted one", "give the CA that signed its certificate with --ca"),
    ("and not for", "call it by a name that is in its certificate (--url)"),
    ("has expired", "renew the certificate of the front end"),
    ("not valid yet", "compare the clocks of both machines: date -u"),
    ("TLS server", "the port speaks no TLS: is it --health-listen, or another service?"),
    ("did not finish the handshake", "the port speaks no TLS, or its process hangs: look there"),
    ("a redirection", "a proxy or another service answers: correct --url, or how it logs in"),
    ("not JSON", "the URL leads to another service: correct --url"),
    ("certificate required", "log in with --certificate and --private-key"),
)


def hint(text: str, otherwise: str) -> str:
    """Return the advice for an error's text."""
    for words, advice in _HINTS:
        if words in text:
            return advice
    return otherwise


async def service_b(api: Api, now: Callable[[], float]) -> list[Finding]:
    """Check that service B can be reached, is ready, accepts the caller, and has the same time."""
    check = Check("service B", api.url)
    try:
        ready = await api.ask("GET", "/readyz", accept=(404, 503))
        document = await api.ask("GET", "/openapi.json", accept=(404,))
    except VerbFailed as error:
        text = str(error).removeprefix(f"{api.url}: ")
        return [check.error(text, hint(text, "look at the log of the front end"))]
    found = [*_ready(check, ready), *_clock(check, ready, now()), *_version(check, document)]
    try:
        await api.ask("GET", f"{API}/tasks/{'0' * 32}", accept=(404, 503))
    except VerbFailed as error:
        advice = (
            "log in with --token-file or --certificate; `rtprov token list` shows who has a token"
        )
        found.append(Check("log-in", api.url).error(str(error), advice))
    return found or [check.ok("ready, and accepts these credentials")]


def _ready(check: Check, answer: Answer) -> Iterator[Finding]:
    if answer.status == 404:
        yield check.error("is another service: it has no /readyz", "correct --url")
    elif answer.status == 503:
        yield check.error(
            f"is not ready: {answer.message}",
            "start a worker for each shard, and check its broker and sealing keys",
        )


def _clock(check: Check, answer: Answer, now: float) -> Iterator[Finding]:
    text = answer.header("Date")
    try:
        there = parsedate_to_datetime(text or "").timestamp()
    except (TypeError, ValueError, OverflowError):
        return
    skew_s = there - now
    if abs(skew_s) > MAX_SKEW_S:
        way = "ahead of" if skew_s > 0 else "behind"
        yield Check("clock", check.about).error(
            f"its clock is {abs(skew_s):.0f} s {way} this machine's",
            "run an NTP client (chrony, systemd-timesyncd) on both machines",
        )


def _version(check: Check, answer: Answer) -> Iterator[Finding]:
    info = answer.document.get("info", {}) if isinstance(answer.document, dict) else {}
    version = info.get("version") if isinstance(info, dict) else None
    if version is None and answer.status == 200:
        yield check.error("is another service: its /openapi.json has no version", "correct --url")
    elif version is not None and version != __version__:
        yield Check("version", check.about).warning(
            f"runs rtprov {version}, and this is {__version__}",
            "upgrade the older one: workers first, then front ends, then the command line",
        )


def broker_url(text: str, source: str) -> Iterator[Finding]:
    """Check the URL of a broker, without connecting. `source` is the variable or file."""
    check = Check("broker URL", source)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        yield check.error(
            "cannot be parsed", "percent-encode special characters in user and password"
        )
        return
    if parts.scheme not in ("amqp", "amqps"):
        yield check.error("does not begin with amqp:// or amqps://", "correct it")
        return
    if port in (15672, 15671):
        yield check.error(
            f"port {port} is RabbitMQ's management page, not AMQP", "use 5672, with TLS 5671"
        )
    elif (parts.scheme, port) in (("amqp", 5671), ("amqps", 5672)):
        yield check.warning(
            f"port {port} is usual for {'amqps' if port == 5671 else 'amqp'}://",
            "change the scheme or the port",
        )
    if parts.scheme == "amqp" and not is_here(host):
        yield check.warning("the password crosses the network in clear text", "use amqps:// (--ca)")
    if (unquote(parts.username or "guest")) == "guest" and not is_here(host):
        yield check.error(
            "RabbitMQ accepts the user guest from its own machine only",
            "make a user for rtprov: see permissions in docs/operations.md",
        )


def is_here(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def broker(name: str, connect: Callable[[], Awaitable[str]]) -> Finding:
    """Check that the broker accepts the log-in. `connect` returns what it found there."""
    check = Check("broker", name)
    try:
        return check.ok(await connect())
    except ConfigurationError as error:
        return check.error(str(error), "correct the URL or the file")
    except BrokerError as error:
        text = str(error)
        if "ACCESS_REFUSED" in text or "403" in text:
            advice = "correct the user and the password, or give the user its permissions"
        elif "530" in text or "NOT_ALLOWED" in text:
            advice = "make the virtual host (rabbitmqctl add_vhost), or correct the URL's path"
        else:
            advice = "start the broker, or correct host and port of the URL"
        return check.error(text, advice)


async def service_a(
    http: HTTPClient, explain: Callable[[BaseException], str], url: str, clock: IReactorTime
) -> Finding:
    """Check that service A answers HTTPS. It is asked for a path that changes nothing.

    `http` sends every request there.
    """
    check = Check("service A", url)
    try:
        base, host = for_treq(url)
        headers = Headers({"Host": [host]})
        asked = http.request(
            "GET", f"{base}/", headers=headers, allow_redirects=False, unbuffered=True
        )
        response: Any = await asked.addTimeout(WITHIN_S, clock)
    except Exception as error:  # connection errors have no common base class
        text = explain(error)
        advice = (
            "append the certificate of its CA to --ca"
            if "CA" in text
            else "correct --equipment-url, or allow the connection in the firewall"
        )
        return check.error(text, advice)
    return check.ok(f"answers (HTTP {response.code})")

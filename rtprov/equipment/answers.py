"""What each kind of answer of A means, and how one is read: within limits, since an answer that
breaks them is none of A's contract.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

import msgspec
from OpenSSL import SSL
from twisted.internet.error import ConnectionClosed
from twisted.web.client import RequestTransmissionFailed, ResponseFailed
from werkzeug.http import parse_date

from rtprov.equipment.answer_limits import NotAnAnswer, read_body
from rtprov.errors import NotConnected
from rtprov.model import State
from rtprov.security.tls_failures import explain

if TYPE_CHECKING:
    from twisted.web.iweb import IResponse

OUTAGE_STATUSES = frozenset({502, 503, 504})


class _Answer(msgspec.Struct):
    """A's body, as far as it matters here."""

    code: int


_decode_answer = msgspec.json.Decoder(_Answer).decode

_FINAL_STATES = {200: State.COMPLETED, 404: State.NOT_FOUND, 500: State.FAILED}


def interpret(status: int, body: bytes) -> tuple[State, str]:
    """The final state that A's answer means, and why. An answer that is not A's contract is a
    failure.

    A byte order mark is passed over, as RFC 8259 §8.1 allows.
    """
    try:
        code = _decode_answer(body.removeprefix(codecs.BOM_UTF8)).code
    except (msgspec.DecodeError, RecursionError):
        return State.FAILED, f"A answered HTTP {status} with a body that is not its contract's"
    if code != status or status not in _FINAL_STATES:
        return State.FAILED, f"A answered HTTP {status} with code {code}, which is not its contract"
    return _FINAL_STATES[status], f"A answered {status}"


def retry_after_s(value: str | None, now: float) -> float | None:
    """The pause that a ``Retry-After`` field asks for (RFC 9110 §10.2.3: seconds or a date), or
    None where it says nothing sensible.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parse_date(value)
    except OverflowError:  # a year that no clock will ever show
        return None
    return max(0.0, date.timestamp() - now) if date else None


def answered_at(response: IResponse, now: float) -> float:
    """When A sent the answer by its own clock (RFC 9110 §6.6.1), in seconds since the epoch; `now`
    if it does not say.

    A date in ``Retry-After`` is by A's clock, too: ours may differ from it, or may have been set.
    """
    try:
        date = parse_date(header(response, b"date"))
    except OverflowError:
        return now
    return now if date is None else date.timestamp()


def header(response: IResponse, name: bytes) -> str | None:
    """The field's last value."""
    values = response.headers.getRawHeaders(name)
    return values[-1].decode("latin-1").strip() if values else None


# What went wrong.


def reasons_of(error: BaseException) -> list[BaseException]:
    """The causes inside Twisted's wrapping exceptions, or the error itself."""
    if isinstance(error, (ResponseFailed, RequestTransmissionFailed)):
        return [inner for reason in error.reasons for inner in reasons_of(reason.value)]
    return [error]


def unusable_answer(error: BaseException) -> NotAnAnswer | None:
    """What is wrong with what A has answered; None if it has not, or its connection was lost on the
    way.

    Twisted's parser raises all sorts of errors (ValueError, KeyError) for what is not HTTP, so all
    count as that but for those that tell of a connection."""
    if isinstance(error, NotAnAnswer) or not isinstance(error, ResponseFailed):
        return error if isinstance(error, NotAnAnswer) else None
    reason = reasons_of(error)[0]  # a second one tells only of what is missing
    if isinstance(reason, NotAnAnswer):
        return reason
    return None if isinstance(reason, _LOST) else NotAnAnswer("A's answer is not HTTP")


_LOST = (ConnectionClosed, SSL.Error, OSError)


def summary(reasons: list[BaseException]) -> str:
    """One line for log and journal: the reasons in words, or by class and message; they speak of
    connections, never of bodies.
    """
    return "; ".join(dict.fromkeys(_describe(reason) for reason in reasons))


def _describe(reason: BaseException) -> str:
    if isinstance(reason, NotConnected):
        return str(reason)
    return explain(reason) or f"{type(reason).__name__}: {reason}".strip(": ")


async def read_unless_outage(response: IResponse) -> bytes:
    """The answer's body, or nothing if it is too large and a gateway's: its page says nothing to
    us.

    Raises `NotAnAnswer`, or what tells of a connection that was lost. Cancelling closes the
    connection."""
    try:
        return await read_body(response)
    except NotAnAnswer:
        if response.code in OUTAGE_STATUSES:
            return b""
        raise

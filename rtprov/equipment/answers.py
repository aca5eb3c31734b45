"""The meaning of A's answers and errors: final states, outages, and reasons for the journal."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

import msgspec
from OpenSSL import SSL
from twisted.internet.error import ConnectionClosed
from twisted.web.client import RequestTransmissionFailed, ResponseFailed
from werkzeug.http import parse_date

from rtprov.equipment.answer_limits import NotAnAnswer
from rtprov.errors import NotConnected
from rtprov.model import State
from rtprov.security.tls_failures import explain

if TYPE_CHECKING:
    from twisted.web.iweb import IResponse


class _Answer(msgspec.Struct):
    """The part of A's body that rtprov uses."""

    code: int


_decode_answer = msgspec.json.Decoder(_Answer).decode

_FINAL_STATES = {200: State.COMPLETED, 404: State.NOT_FOUND, 500: State.FAILED}


def interpret(status: int, body: bytes) -> tuple[State, str]:
    """Return the final state that A's answer means, and the reason.

    An answer that breaks A's contract means failure. A byte order mark is ignored, as RFC 8259 §8.1
    allows.
    """
    try:
        code = _decode_answer(body.removeprefix(codecs.BOM_UTF8)).code
    except (msgspec.DecodeError, RecursionError):
        return State.FAILED, f"A answered HTTP {status} with a body that breaks its contract"
    if code != status or status not in _FINAL_STATES:
        return State.FAILED, f"A answered HTTP {status} with code {code}, which breaks its contract"
    return _FINAL_STATES[status], f"A answered {status}"


def retry_after_s(value: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` field asks to wait (RFC 9110 §10.2.3).

    The field has seconds or a date. `now` is seconds since the epoch, by the clock that the date
    refers to. Return None if there is no field or it is invalid.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value.lstrip("0")[:9] or "0")
    try:
        date = parse_date(value)
    except OverflowError:  # a year too large for a datetime
        return None
    return max(0.0, date.timestamp() - now) if date else None


def answered_at(response: IResponse, now: float) -> float:
    """Return when A sent the answer, by A's clock (RFC 9110 §6.6.1), in seconds since the epoch.

    Return `now` if the answer has no date. A date in ``Retry-After`` also refers to A's clock,
    which may differ from the one of this machine.
    """
    try:
        date = parse_date(header(response, b"date"))
    except OverflowError:
        return now
    return now if date is None else date.timestamp()


def header(response: IResponse, name: bytes) -> str | None:
    """Return the last value of a header field, or None."""
    values = response.headers.getRawHeaders(name)
    return values[-1].decode("latin-1").strip() if values else None


# Errors of calls.


def reasons_of(error: BaseException) -> list[BaseException]:
    """Return the causes inside Twisted's wrapping exceptions, or the error itself."""
    if isinstance(error, (ResponseFailed, RequestTransmissionFailed)):
        return [inner for reason in error.reasons for inner in reasons_of(reason.value)]
    return [error]


def unusable_answer(error: BaseException) -> NotAnAnswer | None:
    """Return what is wrong with the answer that A sent.

    Return None if A sent no answer, or the connection was lost in the middle of it. Twisted's
    parser raises many kinds of errors (ValueError, KeyError) for data that is not HTTP. So every
    error except those of connections counts as an answer that is not HTTP.
    """
    if isinstance(error, NotAnAnswer) or not isinstance(error, ResponseFailed):
        return error if isinstance(error, NotAnAnswer) else None
    reason = reasons_of(error)[0]  # a further one only reports missing data
    if isinstance(reason, NotAnAnswer):
        return reason
    return None if isinstance(reason, _LOST) else NotAnAnswer("A's answer is not HTTP")


_LOST = (ConnectionClosed, SSL.Error, OSError)


def summary(reasons: list[BaseException]) -> str:
    """Return the errors as one line for log and journal.

    They are readable phrases, or class names with messages. They concern connections and never
    contain parts of a body.
    """
    return "; ".join(dict.fromkeys(_describe(reason) for reason in reasons))


def _describe(reason: BaseException) -> str:
    if isinstance(reason, NotConnected):
        return str(reason)
    return explain(reason) or f"{type(reason).__name__}: {reason}".strip(": ")

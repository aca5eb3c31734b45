"""JSON answers: the envelope of errors, and the table from error class to HTTP status.

Klein handlers return what `answer` returns, and pass their failures to `answer_error`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from rtprov.errors import (
    BodyTooLarge,
    BrokerError,
    CredentialsMalformed,
    CredentialsMissing,
    CredentialsUnknown,
    CsrfMissing,
    EquipmentNotFound,
    ExpectationFailed,
    Forbidden,
    ForeignOrigin,
    InvalidBody,
    InvalidHeader,
    InvalidQuery,
    KeyReused,
    MalformedRequest,
    NotReady,
    NoWorker,
    ProvisioningFailed,
    RtprovError,
    TaskCancelled,
    TaskNotFound,
    TooLate,
    TooManyRequests,
    Unconfirmed,
    Undecided,
    UnsupportedContentEncoding,
    UnsupportedMediaType,
)

RETRY_AFTER_S = 2
_PROBLEM_JSON = b"application/problem+json"

_log = Logger()
encode = msgspec.json.Encoder().encode

# Twisted, and Python before 3.13, have three phrases of earlier RFCs.
_RFC_9110 = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
_PHRASES = {status.value: status.phrase for status in HTTPStatus} | _RFC_9110

_RETRY = {"Retry-After": str(RETRY_AFTER_S)}
_BEARER = 'Bearer realm="rtprov"'  # RFC 6750 §3
_UNCERTAIN = "The task may or may not have been accepted: the broker's answer was lost"

# Error class, status, message (None: the error's own) and headers. The first matching row is used.
_TABLE: tuple[tuple[type[Exception], int, str | None, Mapping[str, str]], ...] = (
    (InvalidBody, 400, None, {}),
    (MalformedRequest, 400, None, {}),
    (CredentialsMalformed, 400, None, {"WWW-Authenticate": f'{_BEARER}, error="invalid_request"'}),
    (CredentialsMissing, 401, None, {"WWW-Authenticate": _BEARER}),
    (CredentialsUnknown, 401, None, {"WWW-Authenticate": f'{_BEARER}, error="invalid_token"'}),
    (Forbidden, 403, None, {"WWW-Authenticate": f'{_BEARER}, error="insufficient_scope"'}),
    (ForeignOrigin, 403, None, {}),
    (CsrfMissing, 403, None, {}),
    (InvalidHeader, 400, None, {}),
    (InvalidQuery, 400, None, {}),
    (EquipmentNotFound, 404, None, {}),
    (TaskNotFound, 404, None, {}),
    (TooLate, 409, None, {}),
    (BodyTooLarge, 413, None, {}),
    (UnsupportedMediaType, 415, None, {"Accept-Post": "application/json"}),
    (UnsupportedContentEncoding, 415, None, {"Accept-Encoding": "identity"}),  # RFC 9110 §12.5.3
    (ExpectationFailed, 417, None, {}),
    (KeyReused, 422, None, {}),
    (TooManyRequests, 429, None, {}),  # Retry-After is added from the error
    (ProvisioningFailed, 500, None, {}),
    (TaskCancelled, 500, None, {}),
    (Unconfirmed, 503, _UNCERTAIN, _RETRY),
    (Undecided, 503, None, _RETRY),
    (NoWorker, 503, None, _RETRY),
    (NotReady, 503, None, _RETRY),
    (BrokerError, 503, "The service is temporarily unavailable", _RETRY),
)


def phrase(status: int) -> str:
    """The reason phrase of a status that HTTP defines (RFC 9110 §15, RFC 6585)."""
    return _PHRASES[status]


def answer(
    request: IRequest, status: int, document: object, headers: Mapping[str, str] | None = None
) -> bytes:
    """Set status and headers; return the body, for a Klein handler to return."""
    body = encode(document)
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.setHeader(b"Cache-Control", b"no-store")
    for name, value in (headers or {}).items():
        request.setHeader(name.encode(), value.encode())
    return body


def answer_bytes(request: IRequest, media_type: bytes, body: bytes) -> bytes:
    """Set the headers of a constant document, and return its body."""
    request.setHeader(b"Content-Type", media_type)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    return body


def envelope(status: int, message: str) -> dict[str, object]:
    """Return the document of an error or a simple answer."""
    return {"code": status, "message": message}


def _answer_refusal(
    request: IRequest,
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    detail: str | None = None,
) -> bytes:
    """Answer with an error in its envelope.

    A client that asks for ``application/problem+json`` (RFC 9457) gets that instead, with `detail`
    if there is one.
    """
    if not _asks_for_problem(request):
        return answer(request, status, envelope(status, message), headers)
    problem = {
        "type": "about:blank",
        "title": phrase(status),
        "status": status,
        "detail": detail or message,
    }
    body = answer(request, status, problem, headers)
    request.setHeader(b"Content-Type", _PROBLEM_JSON)
    return body


def _asks_for_problem(request: IRequest) -> bool:
    """Return whether ``Accept`` prefers ``application/problem+json`` (RFC 9110 §12.5.1).

    It must name the type, with at least the weight of plain JSON. ``*/*`` does not count.
    """
    weights = {_PROBLEM_JSON: 0.0, b"application/json": 0.0}
    for accepted in b",".join(request.requestHeaders.getRawHeaders(b"Accept", [])).split(b","):
        media_type, *parameters = (part.strip().lower() for part in accepted.split(b";"))
        if media_type in weights:
            weights[media_type] = max(
                [_weight(each) for each in parameters if each.startswith(b"q=")], default=1.0
            )
    return weights[_PROBLEM_JSON] > 0 and weights[_PROBLEM_JSON] >= weights[b"application/json"]


def _weight(parameter: bytes) -> float:
    return (
        float(parameter[2:])
        if re.fullmatch(rb"q=(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", parameter)
        else 0.0
    )


def answer_error(request: IRequest, failure: Failure) -> bytes:
    """Answer a request that failed.

    An error that is not in the table is logged with its traceback, and answered with a plain 500.
    """
    error = failure.value
    assert error is not None
    if isinstance(error, HTTPException):
        return _answer_routing(request, error)
    row = answer_for(error)
    if row is not None:
        status, message, headers = row
        note = getattr(request, "note_refusal", None)  # requests of other sites than ours lack it
        if note is not None:
            note(status, error)
        return _answer_refusal(
            request,
            status,
            message,
            headers,
            error.detail if isinstance(error, RtprovError) else None,
        )
    _log.failure(
        "{method} {path}: unexpected error",
        failure,
        method=request.method,
        path=getattr(request, "path", b"?"),
    )
    return _answer_refusal(request, 500, "Internal server error")


def answer_for(error: BaseException) -> tuple[int, str, Mapping[str, str]] | None:
    """Return status, message and headers of an error; None if it is not in the table."""
    for kind, status, message, headers in _TABLE:
        if isinstance(error, kind):
            own = (
                {"Retry-After": str(error.retry_after_s)}
                if isinstance(error, TooManyRequests)
                else {}
            )
            return status, message or str(error), {**headers, **own}
    return None


def _answer_routing(request: IRequest, error: HTTPException) -> bytes:
    if isinstance(error, MethodNotAllowed):
        allowed = {"Allow": ", ".join(sorted(error.valid_methods or ()))}
        return _answer_refusal(request, 405, "The method is not allowed here", allowed)
    return _answer_refusal(request, 404, "There is nothing at this path")

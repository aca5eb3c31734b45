"""The path ``/api/v1/session``, for the page ``/ui/``: log in, ask who is logged in, log out.

A browser logs in with a token in ``Authorization``, and gets a session cookie for it. A browser
with a client certificate, or at a front end that asks for no credentials, needs no session; it asks
only who it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from rtprov import __version__
from rtprov.errors import CredentialsMissing
from rtprov.frontend.audit import note_session
from rtprov.frontend.query_parameters import arguments_of, no_parameters
from rtprov.http.request import SESSION_PATH, admission_of, caller_of
from rtprov.http.responses import answer, envelope
from rtprov.http.session_cookie import begin_cookie, end_cookie

if TYPE_CHECKING:
    from klein import Klein
    from twisted.web.iweb import IRequest

    from rtprov.http.admission import Caller
    from rtprov.security.sessions import Session


class SessionDocument(msgspec.Struct, rename="camel"):
    """Who sends the request. `csrfToken` is what changing requests must have in X-CSRF-Token; null
    if there is no session.
    """

    caller: str
    role: str
    csrf_token: str | None
    version: str


class SessionAnswer(msgspec.Struct):
    """The answer about a session."""

    code: int
    session: SessionDocument


def add_session_routes(app: Klein) -> None:
    """Add the routes to the front end's."""
    path = SESSION_PATH.decode()

    @app.route(path, methods=["GET"])
    def who(_: object, request: IRequest) -> bytes:
        no_parameters(arguments_of(cast("bytes", request.uri)))
        admission = admission_of(request)
        session = None if admission is None else admission.session_in(request.requestHeaders)
        return answer(request, 200, _answer(caller_of(request), session))

    @app.route(path, methods=["POST"])
    def log_in(_: object, request: IRequest) -> bytes:
        no_parameters(arguments_of(cast("bytes", request.uri)))
        admission, caller = admission_of(request), caller_of(request)
        if admission is None or caller.token is None:
            return answer(request, 200, _answer(caller, None))
        if not request.requestHeaders.hasHeader(b"Authorization"):
            raise CredentialsMissing  # a session does not prolong itself
        secret, session = admission.sessions.begin(caller.token, admission.tokens or ())
        note_session("logged in", caller.name)
        return answer(request, 200, _answer(caller, session), {"Set-Cookie": begin_cookie(secret)})

    @app.route(path, methods=["DELETE"])
    def log_out(_: object, request: IRequest) -> bytes:
        no_parameters(arguments_of(cast("bytes", request.uri)))
        admission = admission_of(request)
        if admission is not None and admission.end_session(request.requestHeaders):
            note_session("logged out", caller_of(request).name)
        return answer(request, 200, envelope(200, "Logged out"), {"Set-Cookie": end_cookie()})


def _answer(caller: Caller, session: Session | None) -> SessionAnswer:
    csrf = None if session is None else session.csrf
    return SessionAnswer(200, SessionDocument(caller.name, str(caller.role), csrf, __version__))

"""Why a verb ends, and with which exit status.

The statuses are fixed; scripts compare them.
"""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """The exit statuses of ``rtprov``."""

    DONE = 0
    TASKS_FAILED = 1
    USAGE = 2
    NOT_ALLOWED = 3
    NOT_FOUND = 4
    OUT_OF_REACH = 5
    TIMED_OUT = 6


class VerbFailed(Exception):
    """A verb cannot do what it was told. The message is one line for the operator."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


class OutOfReach(VerbFailed):
    """The front end cannot be reached, or cannot answer at present.

    With `sent`, the request may have taken effect.
    """

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message, Status.OUT_OF_REACH)
        self.sent = sent


_BY_HTTP_STATUS = {
    401: Status.NOT_ALLOWED,
    403: Status.NOT_ALLOWED,
    404: Status.NOT_FOUND,
    408: Status.OUT_OF_REACH,
    409: Status.TASKS_FAILED,
    429: Status.OUT_OF_REACH,
}


def status_of(http_status: int) -> Status:
    """Return the exit status for the HTTP status of an error."""
    if http_status in _BY_HTTP_STATUS:
        return _BY_HTTP_STATUS[http_status]
    return Status.USAGE if 400 <= http_status < 500 else Status.OUT_OF_REACH

"""The errors that rtprov raises on purpose, as one hierarchy.

Each message is plain English and may be shown to clients and operators. It never contains a
parameter of a task. `rtprov.http.responses` has the only table from error class to HTTP status.
"""

from __future__ import annotations

import errno


class RtprovError(Exception):
    """Base class of all errors that rtprov raises on purpose.

    `detail` is a longer text than the message, or None. Clients compare the message with the
    contract's, so additions go into `detail`.
    """

    detail: str | None = None


class ConfigurationError(RtprovError):
    """An option, a file, an address or the broker's state is wrong.

    The command prints the message as one line and exits. `exit_status` is EX_CONFIG of sysexits.h:
    a supervisor need not restart the command until an operator has changed something.
    """

    exit_status = 78


class TemporarilyUnavailable(ConfigurationError):
    """The command cannot start now, but may start later without any change.

    Examples: an address or a folder is in use, or a disk is full.
    """

    exit_status = 1


_MAY_PASS = frozenset(
    {
        errno.EADDRINUSE,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EAGAIN,
        errno.EBUSY,
    }
)


def refusal(message: str, error: BaseException) -> ConfigurationError:
    """Return the error to raise if the operating system's `error` keeps a command from starting.

    `message` is its text. It is a `TemporarilyUnavailable` if the condition may pass by itself.
    """
    return (
        TemporarilyUnavailable if getattr(error, "errno", None) in _MAY_PASS else ConfigurationError
    )(message)


class InvalidBody(RtprovError):
    """A request's body is not JSON or violates the schema.

    The message names the place, for example ``parameters[2].vlan: expected an integer from 1 to
    4094``.
    """


class BodyTooLarge(RtprovError):
    """A request's body is larger than `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The body is too large: the limit is {max_bytes} bytes")


class UnsupportedMediaType(RtprovError):
    """A request's Content-Type is not JSON."""

    def __init__(self) -> None:
        super().__init__(
            "Unsupported media type: send a JSON body with Content-Type: application/json"
        )


class UnsupportedContentEncoding(RtprovError):
    """A request's body is compressed or encoded in another way."""

    def __init__(self) -> None:
        super().__init__(
            "Unsupported content encoding: send the body as it is, without Content-Encoding"
        )


class MalformedRequest(RtprovError):
    """A request's head is not valid HTTP. The message names the field; the connection is closed."""


class ExpectationFailed(RtprovError):
    """A request's ``Expect`` asks for something other than 100-continue."""

    def __init__(self) -> None:
        super().__init__("Expect: only 100-continue is supported")


class EquipmentNotFound(RtprovError):
    """The equipment id is malformed, or service A does not know it."""

    def __init__(self) -> None:
        super().__init__("The requested equipment is not found")


class EquipmentMalformed(EquipmentNotFound):
    """The equipment id is malformed, so no equipment can have it."""

    detail = (
        "The requested equipment is not found: the id is malformed; expected 6 or more characters"
        " from a-z, A-Z and 0-9"
    )


class TaskNotFound(RtprovError):
    """There is no such task, or it belongs to other equipment."""

    def __init__(self) -> None:
        super().__init__("The requested task is not found")


class TaskMalformed(TaskNotFound):
    """The task id is malformed, so no task can have it."""

    detail = (
        "The requested task is not found: the id is malformed; expected 32 characters from 0-9 and"
        " a-f"
    )


class CredentialsMissing(RtprovError):
    """The request has no credentials, but they are required."""

    def __init__(self) -> None:
        super().__init__("Credentials are required: send Authorization: Bearer TOKEN")


class CredentialsMalformed(RtprovError):
    """The request's Authorization is not one bearer token (RFC 6750 §2.1)."""

    def __init__(self) -> None:
        super().__init__(
            "The credentials are malformed: send one header field, Authorization: Bearer TOKEN"
        )


class CredentialsUnknown(RtprovError):
    """The request's token is not in the tokens file."""

    def __init__(self) -> None:
        super().__init__("The credentials are not valid")


class CredentialsExpired(CredentialsUnknown):
    """The request's token is in the tokens file, and its last day has passed.

    `why` is the reason in the audit line.
    """

    detail = "The credentials are not valid: the token has expired"

    def __init__(self, until_when: str) -> None:
        super().__init__()
        self.why = f"The credentials have expired: {until_when}"


class Forbidden(RtprovError):
    """The client is known, but its `role` is too low; `role_needed` is the lowest role allowed."""

    def __init__(
        self, role_needed: str, role: str, why: str = "These credentials do not allow this request"
    ) -> None:
        super().__init__(f"{why}: it needs the role {role_needed}, and they have the role {role}")


class NotYours(Forbidden):
    """The task belongs to another caller; the client's `role` covers only its own tasks."""

    def __init__(self, role: str) -> None:
        super().__init__(
            "operate",
            role,
            "These credentials do not allow this request, because the task belongs to another"
            " caller",
        )


class ForeignOrigin(RtprovError):
    """A browser sent the request on behalf of a page of another site.

    Such a page may use the client's credentials without the user's knowledge.
    """

    def __init__(self) -> None:
        super().__init__(
            "Requests that change something are not accepted from pages of other sites (see Origin"
            " and Sec-Fetch-Site)"
        )


class CsrfMissing(RtprovError):
    """A changing request has a session cookie, but not the session's CSRF token."""

    def __init__(self) -> None:
        super().__init__(
            "A request with a session cookie that changes something needs the header X-CSRF-Token,"
            " with the csrfToken of GET /api/v1/session"
        )


class TooManyRequests(RtprovError):
    """The client sent more requests than its rate allows.

    `retry_after_s` is the number of whole seconds until its next request is accepted. `caller` is
    the name by which the client is counted.
    """

    def __init__(self, retry_after_s: int, caller: str | None = None) -> None:
        super().__init__("Too many requests")
        self.retry_after_s = retry_after_s
        self.caller = caller


class InvalidHeader(RtprovError):
    """A header field of the request is invalid; the message names it."""


class InvalidQuery(RtprovError):
    """A query parameter of the request is unknown or invalid; the message names it."""


class KeyReused(RtprovError):
    """An ``Idempotency-Key`` was used again with a different body."""

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for this equipment before, with another body"
        )


class TooLate(RtprovError):
    """A task can no longer be cancelled."""

    def __init__(self) -> None:
        super().__init__(
            "The task cannot be cancelled any more: it was sent to the equipment service, or has"
            " ended"
        )


class TaskCancelled(RtprovError):
    """The task was cancelled. This is its final status."""

    def __init__(self) -> None:
        super().__init__("The task was cancelled before it was sent to the equipment service")


class ProvisioningFailed(RtprovError):
    """Service A failed, or the stub was told to fail (A's only 500)."""

    def __init__(self) -> None:
        super().__init__("Internal provisioning exception")


class SealError(RtprovError):
    """A sealed body cannot be opened with the key that its message names.

    The body was damaged or tampered with.
    """


class KeyMissing(SealError):
    """The key that sealed a body is not loaded.

    `key` is the id of that key. It is None if the message names no key and no loaded key opens the
    body.
    """

    def __init__(self, key: str | None) -> None:
        super().__init__(
            f"The sealing key {key} is missing"
            if key is not None
            else "None of the loaded sealing keys opens the body"
        )
        self.key = key


class UndecodableMessage(RtprovError):
    """A message in one of rtprov's queues is damaged, or has a format that rtprov does not know."""


class NoAnswer(RtprovError):
    """Service A gave no answer, or only a gateway in front of A answered.

    `retry_after_s` is the answer's ``Retry-After`` in seconds (RFC 9110 §10.2.3), or None.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EquipmentUnreachable(NoAnswer):
    """Service A could not be reached: the call may be repeated."""


class EquipmentSilent(NoAnswer):
    """Service A gave no answer in time. This is final: A may have executed the order."""


class OutOfPatience(RtprovError):
    """Service A was unavailable for as long as a task may wait for it."""

    def __init__(self) -> None:
        super().__init__("out of patience: A is in trouble")


class NotConnected(RtprovError):
    """A connection to a server could not be opened, so nothing was sent.

    The message names the last attempt and why it failed.
    """


class OutOfResources(NotConnected):
    """A connection could not be attempted, because this machine lacks a resource.

    The resource is a file descriptor, a port, memory or a thread. The server is not to blame.
    """


class BrokerError(RtprovError):
    """An operation on the AMQP broker failed, or the connection to the broker failed."""


class BrokerUnavailable(BrokerError):
    """There is no usable connection to the broker at present; nothing was sent."""


class Overloaded(BrokerError):
    """The broker blocks publishers, or too many publishes wait for a confirm; nothing was sent."""


class Unconfirmed(BrokerError):
    """A message was published, and its confirm is lost, late or negative.

    The broker may or may not have the message.
    """


class Undecided(BrokerError):
    """A request was sent, and whether it took effect is unknown."""

    def __init__(self) -> None:
        super().__init__(
            "The request may or may not have taken effect: the broker's or the worker's answer was"
            " lost; send it again"
        )


class Unroutable(BrokerError):
    """A mandatory message was returned because no queue matched (AMQP 0-9-1 ``basic.return``)."""


class NoReply(BrokerError):
    """A request over AMQP got no reply in time, or the connection was lost before the reply."""


class NoWorker(RtprovError):
    """No live worker can report a task's status."""


class HistoryUnavailable(RtprovError):
    """The history of ended tasks cannot be read or written at present; the message says why."""


class NotReady(RtprovError):
    """The process is alive but cannot do its work at present; the message says why."""


class KeyNotShared(NotReady):
    """No live worker has the key with which the front end seals; nothing was sent."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The task was not accepted: no worker has this front end's first sealing key, {key}."
            " Front ends and workers need the same key file"
        )


class KeyGone(NotReady):
    """The key needed to check an ``Idempotency-Key`` against an earlier POST is not loaded."""

    def __init__(self, key: str) -> None:
        super().__init__(
            "This Idempotency-Key was used before, and this front end cannot check whether the body"
            f" is the same: the sealing key {key} is not in its key file"
        )


class AmqpError(BrokerError):
    """An AMQP 0-9-1 exception (§1.1 of the specification), raised by either side.

    `reply_code` is one of the specification's constants. `class_id` and `method_id` name the method
    that caused it, or are 0.
    """

    # §1.2: these codes close the connection; all others close only the channel.
    HARD = frozenset({320, 402, 501, 502, 503, 504, 505, 506, 530, 540, 541})

    def __init__(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        super().__init__(f"{reply_code} {reply_text}")
        self.reply_code = reply_code
        self.reply_text = reply_text
        self.class_id = class_id
        self.method_id = method_id

    @property
    def hard(self) -> bool:
        """Whether the exception closes the connection, and not only the channel."""
        return self.reply_code in self.HARD

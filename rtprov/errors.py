"""Everything that can go wrong, as one small hierarchy.

The message of each error is plain English, fit to be shown to a client or an operator, and never
holds a parameter of a task. `rtprov.http.responses` maps each class to its HTTP status; nothing
else decides on one."""

from __future__ import annotations

import errno


class RtprovError(Exception):
    """Base of all errors raised on purpose in rtprov.

    `detail` says more than the message, which clients compare with the contract's; None where there
    is no more to say."""

    detail: str | None = None


class ConfigurationError(RtprovError):
    """An option, a file, an address or the broker's state is wrong: the command ends with this one
    line.

    `exit_status` is EX_CONFIG of sysexits.h: a supervisor need not start the command again before
    an operator has changed something."""

    exit_status = 78


class TemporarilyUnavailable(ConfigurationError):
    """The command cannot start now, but may later without any change: an address or a folder is in
    use, a disk is full.
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
    """The error to raise, with `message`, where the operating system's `error` keeps a command from
    starting.
    """
    return (
        TemporarilyUnavailable if getattr(error, "errno", None) in _MAY_PASS else ConfigurationError
    )(message)


class InvalidBody(RtprovError):
    """A request's body is not JSON or breaks the schema.

    The message names the place, for example ``parameters[2].vlan: expected an integer from 1 to
    4094``."""


class BodyTooLarge(RtprovError):
    """A request's body is over the limit of `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The body is too large: at most {max_bytes} bytes are taken")


class UnsupportedMediaType(RtprovError):
    """A request's Content-Type is not JSON."""

    def __init__(self) -> None:
        super().__init__(
            "Unsupported media type: send a JSON body with Content-Type: application/json"
        )


class UnsupportedContentEncoding(RtprovError):
    """A request's body is compressed, or encoded in some other way."""

    def __init__(self) -> None:
        super().__init__(
            "Unsupported content encoding: send the body as it is, without Content-Encoding"
        )


class MalformedRequest(RtprovError):
    """A request's head breaks HTTP itself; the message says where. Its connection is closed."""


class ExpectationFailed(RtprovError):
    """A request's ``Expect`` asks for something else than 100-continue."""

    def __init__(self) -> None:
        super().__init__("Expect: only 100-continue is supported")


class EquipmentNotFound(RtprovError):
    """The equipment id is malformed, or service A does not know it."""

    def __init__(self) -> None:
        super().__init__("The requested equipment is not found")


class EquipmentMalformed(EquipmentNotFound):
    """The equipment id can be that of no equipment."""

    detail = (
        "The requested equipment is not found: its id is malformed, it has six or more characters,"
        " a-z, A-Z and 0-9"
    )


class TaskNotFound(RtprovError):
    """There is no such task, or it belongs to other equipment."""

    def __init__(self) -> None:
        super().__init__("The requested task is not found")


class TaskMalformed(TaskNotFound):
    """The task id can be that of no task."""

    detail = (
        "The requested task is not found: its id is malformed, it has 32 characters, 0-9 and a-f"
    )


class CredentialsMissing(RtprovError):
    """The request says nothing of who sends it, where that is asked."""

    def __init__(self) -> None:
        super().__init__("Credentials are required: send Authorization: Bearer and a token")


class CredentialsMalformed(RtprovError):
    """The request's Authorization is not one bearer token (RFC 6750 §2.1)."""

    def __init__(self) -> None:
        super().__init__(
            "The credentials are malformed: send one field, Authorization: Bearer and a token"
        )


class CredentialsUnknown(RtprovError):
    """The request's token is none of those that are let in."""

    def __init__(self) -> None:
        super().__init__("The credentials are not valid")


class CredentialsExpired(CredentialsUnknown):
    """The request's token was let in until the day it expired. `why` is for the log, and says whose
    it is.
    """

    detail = "The credentials are not valid: they have expired"

    def __init__(self, until_when: str) -> None:
        super().__init__()
        self.why = f"The credentials have expired: {until_when}"


class Forbidden(RtprovError):
    """The client is known, and its role `has` is too low: `needed` is the lowest that will do."""

    def __init__(
        self, needed: str, has: str, why: str = "These credentials do not allow that"
    ) -> None:
        super().__init__(f"{why}: the role {needed} is needed, and they have {has}")


class NotYours(Forbidden):
    """The task belongs to another caller, and the client's role `has` is for its own."""

    def __init__(self, has: str) -> None:
        super().__init__(
            "operate",
            has,
            "These credentials do not allow that, since the task belongs to another caller",
        )


class ForeignOrigin(RtprovError):
    """A browser sends the request for a page of another site, which may use the log-in without its
    owner's knowledge.
    """

    def __init__(self) -> None:
        super().__init__(
            "Requests that change something are not taken from pages of other sites (Origin,"
            " Sec-Fetch-Site)"
        )


class TooManyRequests(RtprovError):
    """The client asks more often than it may. `retry_after_s` are whole seconds after which the
    next request is taken.

    `caller` names the client as it is counted.
    """

    def __init__(self, retry_after_s: int, caller: str | None = None) -> None:
        super().__init__("Too many requests")
        self.retry_after_s = retry_after_s
        self.caller = caller


class InvalidHeader(RtprovError):
    """A header field of the request breaks its rules; the message names it."""


class InvalidQuery(RtprovError):
    """A parameter of the request's query breaks its rules; the message names it."""


class KeyReused(RtprovError):
    """An ``Idempotency-Key`` comes again with another body."""

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for this equipment before, with another body"
        )


class TooLate(RtprovError):
    """A task cannot be cancelled any more."""

    def __init__(self) -> None:
        super().__init__(
            "The task cannot be cancelled any more: it was sent to the equipment service, or has"
            " ended"
        )


class TaskCancelled(RtprovError):
    """The task's final status, where it was cancelled."""

    def __init__(self) -> None:
        super().__init__("The task was cancelled before it was sent to the equipment service")


class ProvisioningFailed(RtprovError):
    """Service A failed, or the stub was told to (A's only 500)."""

    def __init__(self) -> None:
        super().__init__("Internal provisioning exception")


class SealError(RtprovError):
    """A sealed body cannot be opened with the key that it names: it was damaged or tampered
    with.
    """


class KeyMissing(SealError):
    """The key that a body is sealed with is not at hand. `key` is its id, None where the message
    names none and no key opens it.
    """

    def __init__(self, key: str | None) -> None:
        super().__init__(
            f"The sealing key {key} is missing"
            if key is not None
            else "No sealing key at hand opens the body"
        )
        self.key = key


class UndecodableMessage(RtprovError):
    """A message in one of our queues is not ours, or is damaged."""


class NoAnswer(RtprovError):
    """Service A gave no answer, or none of its own.

    `retry_after_s` is A's own wish (RFC 9110 §10.2.3), in seconds, where it gave one.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EquipmentUnreachable(NoAnswer):
    """Service A could not be reached at all: the call may be made again."""


class EquipmentSilent(NoAnswer):
    """Service A gave no answer in time, which is final: it may have done what it was told."""


class OutOfPatience(RtprovError):
    """A task has waited for service A, which is in trouble, for as long as a task may."""

    def __init__(self) -> None:
        super().__init__("out of patience: A is in trouble")


class NotConnected(RtprovError):
    """No connection to a server came about, so nothing was sent. The message says what was tried
    last, and why it failed.
    """


class OutOfResources(NotConnected):
    """A connection could not even be tried: this machine has no file, port, memory or thread left
    for it. The server is not to blame.
    """


class BrokerError(RtprovError):
    """The AMQP broker, or the way to it, failed us."""


class BrokerUnavailable(BrokerError):
    """There is no usable connection to the broker now; nothing was sent."""


class Overloaded(BrokerError):
    """The broker blocks publishers, or too many publishes wait for their confirm; nothing was
    sent.
    """


class Unconfirmed(BrokerError):
    """A publish was sent and its confirm is lost, late or negative: the message may or may not be
    safe.
    """


class Undecided(BrokerError):
    """An order was sent, and whether it counts could not be learned."""

    def __init__(self) -> None:
        super().__init__(
            "The request may or may not have taken effect: the broker's or the worker's answer was"
            " lost; send it again"
        )


class Unroutable(BrokerError):
    """A mandatory message was returned: no queue took it (AMQP 0-9-1 ``basic.return``)."""


class NoReply(BrokerError):
    """A request over AMQP was sent and not answered in time, or the connection was lost
    meanwhile.
    """


class NoWorker(RtprovError):
    """No worker is alive that could tell a task's status."""


class NotReady(RtprovError):
    """The process is alive and of no use at present; the message says why."""


class KeyNotShared(NotReady):
    """No live worker has the key that a front end seals with: nothing was sent."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The task was not accepted: no worker has this front end's first sealing key, {key}. "
            "Front ends and workers need the same key file"
        )


class KeyGone(NotReady):
    """Whether a POST repeats an earlier one with the same ``Idempotency-Key`` cannot be told: the
    key that could tell is not at hand.
    """

    def __init__(self, key: str) -> None:
        super().__init__(
            "This Idempotency-Key was used before, and whether with this body cannot be checked:"
            f" the sealing key {key} of that time is not in this front end's key file"
        )


class AmqpError(BrokerError):
    """An AMQP 0-9-1 exception (§1.1 of the specification), raised by either side.

    `reply_code` is one of the specification's constants, `class_id` and `method_id` name the method
    that caused it (0 where none did)."""

    # §1.2: these close the whole connection, all others only the channel.
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
        """Whether the connection, and not only the channel, is to be closed."""
        return self.reply_code in self.HARD

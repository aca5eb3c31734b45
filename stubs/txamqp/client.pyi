from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from txamqp.delegate import Delegate
from txamqp.message import Message

class TwistedEvent:
    def fire(self) -> None: ...
    def fail_if_not_fired(self, reason: Failure) -> None: ...
    def wait(self) -> Deferred[bool]: ...

class TwistedDelegate(Delegate):
    client: Any

    def dispatch(self, channel: Any, message: Message) -> object: ...

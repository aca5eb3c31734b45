from typing import Any

from twisted.internet.protocol import Protocol
from txamqp.client import TwistedEvent

class AMQChannel:
    id: int
    client: Any
    closed: bool

class AMQClient(Protocol):
    vhost: str
    closed: bool
    channels: dict[int, Any]
    started: TwistedEvent
    disconnected: TwistedEvent

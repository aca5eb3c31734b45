"""TCP ports for programs that cannot say which port they listen on, and so need a number.

The ports are outside the range from which Linux takes the ports of connections and of servers that
ask for any port (``ip_local_port_range``, 32768 and above by default). So between the choice and
the start of the program, only another caller of `free_ports` could take the port.
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

RANGE = range(20000, 32768)


def free_ports(count: int) -> list[int]:
    """Return `count` different ports of 127.0.0.1 that no process uses now."""
    with ExitStack() as stack:
        found: list[int] = []
        for port in random.SystemRandom().sample(RANGE, len(RANGE)):
            if len(found) == count:
                return found
            with suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    raise AssertionError("no port is free")


def free_port() -> int:
    """Return a port of 127.0.0.1 that no process uses now."""
    return free_ports(1)[0]

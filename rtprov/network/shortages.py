"""Operating-system errors that mean that this machine has run out of a resource.

Such an error says nothing about the called server. The call waits and is repeated.
"""

from __future__ import annotations

import errno

_SHORTAGES = {
    errno.EMFILE: "this process has reached its limit of open files (ulimit -n, LimitNOFILE)",
    errno.ENFILE: "this machine has reached its limit of open files (fs.file-max)",
    errno.ENOBUFS: "this machine has no memory left for sockets (ENOBUFS)",
    errno.ENOMEM: "this machine has no memory left (ENOMEM)",
}
NO_PORT = "this machine has no free local port for that address (net.ipv4.ip_local_port_range)"


def shortage_of(number: int | None) -> str | None:
    """Return a phrase for the missing resource of an `errno`; None for any other error.

    EADDRNOTAVAIL is not included: it may also mean that an address cannot be reached from this
    machine.
    """
    return None if number is None else _SHORTAGES.get(number)

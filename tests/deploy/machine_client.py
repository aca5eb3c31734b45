"""A client of the front end, run on the machine by its Python; only the standard library is used.

- ``orders N``: order N tasks; print the final answer of each.
- ``stream``: order tasks, each on a connection of its own, until the file /run/enough exists; print
  how many connections had which outcome, and how many tasks which end.
- ``status EXPECTED``: ask until the HTTP status is the expected one; print the last one.
- ``certificate [OLD]``: print the SHA-256 of the certificate that is shown, once it is not the old
  one.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

CA, TOKEN, ENOUGH = Path("/root/ca.pem"), Path("/root/token"), Path("/run/enough")
HOST, PORT, DEADLINE_S = "127.0.0.1", 8443, 30.0
CHANGE_WITHIN_S = 20.0  # promised are 5 s, on a machine that is not busy
CPE = "/api/v1/equipment/cpe/"
ORDER = json.dumps({"timeoutInSeconds": 14, "parameters": [{"vlan": 534}]})
TRUST = ssl.create_default_context(cafile=str(CA))
TRUST_ANY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TRUST_ANY.check_hostname, TRUST_ANY.verify_mode = False, ssl.CERT_NONE


def ask(method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    """Send a request on a new connection; return the HTTP status and the answer's JSON."""
    connection = http.client.HTTPSConnection(HOST, PORT, context=TRUST, timeout=DEADLINE_S)
    try:
        headers = {"Authorization": f"Bearer {TOKEN.read_text().strip()}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def order(serial: str) -> str:
    """Order a task; return the path of its status."""
    status, answer = ask("POST", CPE + serial, ORDER)
    if status != 200:
        raise RuntimeError(f"{status} {answer['message']}")
    return f"{CPE}{serial}/task/{answer['taskId']}"


def final(path: str) -> Any:
    """Return the final answer about a task; a worker may be away meanwhile."""
    while True:
        status, answer = ask("GET", path)
        if status != 503 and answer["code"] != 204:
            return answer
        time.sleep(0.2)


def orders(count: str) -> list[Any]:
    return [final(path) for path in [order(f"ORDER{number:03}") for number in range(int(count))]]


def stream() -> tuple[Counter[str], Counter[str]]:
    outcomes: Counter[str] = Counter()
    paths: list[str] = []

    def run(name: int) -> None:
        number = 0
        while not ENOUGH.exists():
            number += 1
            try:
                paths.append(order(f"STREAM{name}X{number:05}"))
                outcomes["accepted"] += 1
            except Exception as error:
                outcomes[f"{type(error).__name__}: {error}"] += 1

    threads = [threading.Thread(target=run, args=(name,)) for name in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return outcomes, Counter(final(path)["message"] for path in paths)


def status(expected: str) -> int:
    path, until = f"{CPE}ORDER000/task/{'0' * 32}", time.monotonic() + CHANGE_WITHIN_S
    while (found := ask("GET", path)[0]) != int(expected) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def certificate(old: str = "") -> str:
    until = time.monotonic() + CHANGE_WITHIN_S
    while (found := shown_certificate()) == old and time.monotonic() < until:
        time.sleep(0.2)
    return found


def shown_certificate() -> str:
    with (
        socket.create_connection((HOST, PORT), DEADLINE_S) as plain,
        TRUST_ANY.wrap_socket(plain) as secure,
    ):
        return hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()


if __name__ == "__main__":
    _, what, *arguments = sys.argv
    commands: dict[str, Any] = {
        "orders": orders,
        "stream": stream,
        "status": status,
        "certificate": certificate,
    }
    sys.stdout.write(json.dumps(commands[what](*arguments)))

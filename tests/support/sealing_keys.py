"""Sealing keys, and a test case whose workers and front ends have different ones."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import Fernet
from twisted.logger import LogEvent, LogLevel, formatEvent

from rtprov.security.sealer import FernetSealer, key_id
from rtprov.worker.service import WorkerService
from tests.support.system import System
from tests.support.system_case import SystemTestCase

OURS, THEIRS, NEXT = (Fernet.generate_key() for _ in range(3))
OUR_ID, THEIR_ID = key_id(OURS), key_id(THEIRS)


class KeysTestCase(SystemTestCase):
    """A front end with the key `OURS`, and a worker whose key file the test chooses."""

    theirs: tuple[bytes, ...] = (THEIRS,)

    def make(self) -> System:
        return System(delay_s=2.0)

    def setUp(self) -> None:
        self.errors: list[str] = []
        super().setUp()
        self.system.sealer.replace([OURS])
        self.replaced()

    def observe(self, event: LogEvent) -> None:
        super().observe(event)
        level = event.get("log_level")
        if level is not None and level >= LogLevel.error:
            self.errors.append(formatEvent(event))

    def replaced(self, keys: tuple[bytes, ...] | None = None) -> WorkerService:
        """Stop the worker, if there is one, and start one with another key file."""
        if self.system.workers:
            self.stop_worker()
        self.file = FernetSealer(self.theirs if keys is None else keys)
        worker = self.system.start_worker(sealer=self.file)
        self.system.network.until(lambda: worker.connection.connected, 10.0)
        return worker

    def stop_worker(self) -> None:
        stopped = self.system.workers.pop(0).stopService()
        self.system.network.until(lambda: bool(stopped.called), 10.0)

    def waits_for(self, task_id: str) -> Any:
        return self.system.request("GET", f"/api/v1/tasks/{task_id}").json["task"]

"""The file with the sealing keys: loading, watching, and creation before the first task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger

from rtprov.errors import ConfigurationError
from rtprov.security.development import ensure_seal_key
from rtprov.security.files import Files, is_there, read_text
from rtprov.security.sealer import FernetSealer, load_keys

if TYPE_CHECKING:
    from pathlib import Path

_log = Logger()


class KeyFile(Files):
    """The sealing keys of the file at `path`, in `sealer`.

    `sealer` has no keys while the file does not exist. Raises `ConfigurationError` if the file is
    invalid.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path
        self.sealer = FernetSealer([])
        self.found()

    def found(self) -> bool:
        """See `rtprov.messaging.first_key.KeySource.found`."""
        if not self.sealer.key_ids and is_there(self.path):
            self.reload()
        return bool(self.sealer.key_ids)

    def make(self) -> None:
        """See `rtprov.messaging.first_key.KeySource.make`."""
        if ensure_seal_key(self.path):
            _log.warn(
                "made a new sealing key: {file}; every front end and worker needs this same file",
                file=str(self.path),
            )
        self.reload()

    def load(self) -> None:
        """See `Files.load`."""
        text = read_text(self.path, "sealing keys")
        try:
            keys = load_keys(text)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.path}: {error}") from None
        self.sealer.replace(keys)
        _log.info(
            "sealing keys in {file}: {keys}; the first one seals",
            file=str(self.path),
            keys=", ".join(self.sealer.key_ids),
        )

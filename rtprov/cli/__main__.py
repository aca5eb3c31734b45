"""``python -m rtprov.cli`` is ``rtprov``."""

from __future__ import annotations

from rtprov.cli.main import main

if __name__ == "__main__":
    main(prog_name="rtprov")

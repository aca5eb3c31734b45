"""``python -m rtprov.move`` moves all tasks to another broker; see `rtprov.tap.move`."""

from __future__ import annotations

from rtprov.tap.move import main

if __name__ == "__main__":
    main()

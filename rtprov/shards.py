"""``python -m rtprov.shards N`` changes the number of shards; see `rtprov.tap.reshard`."""

from __future__ import annotations

from rtprov.tap.reshard import main

if __name__ == "__main__":
    main()

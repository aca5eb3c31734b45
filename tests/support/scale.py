"""How much the open-ended tests do, such as the simulation."""

from __future__ import annotations

import os

# Set by .ci/full: more seeds, all mutations, and chaos runs of five hundred tasks.
FULL = os.environ.get("RTPROV_FULL") == "1"

# Set by "tox -e quick": few seeds, and no RabbitMQ.
QUICK = os.environ.get("RTPROV_QUICK") == "1"

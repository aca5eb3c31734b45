"""How much the tests that could go on for ever do."""

from __future__ import annotations

import os

# As .ci/full sets it: more seeds, all mutations, five hundred tasks in the middle of which a
# process dies.
FULL = os.environ.get("RTPROV_FULL") == "1"

# As "tox -e quick" sets it: few seeds, and no RabbitMQ.
QUICK = os.environ.get("RTPROV_QUICK") == "1"

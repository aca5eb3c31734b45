"""schemathesis against a real front end: for all requests that it generates from ``/openapi.json``,
requests and answers match the document.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from tests.support.processes import ProcessTestCase

# A task's status is the HTTP status: 500 means that it failed or was cancelled. A used key does not
# mean that a body is not valid. An unexpected error, which is a 500 too, leaves its traceback in
# the log.
CONFIGURATION = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "500"]
positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422", "500"]
"""
RUN = "from schemathesis.cli import schemathesis; schemathesis()"


class Schemathesis(ProcessTestCase):
    timeout = 300.0

    async def test_the_document_holds(self) -> None:
        """Generated requests, valid and invalid, single and in sequences, get only answers that the
        document lists.
        """
        process = self.twistd(
            "rtprov", "--port", "0", "--stub-port", "0", "--broker-port", "0", "--stub-delay", "0.2"
        )
        port = await process.port("service B (front end)")
        await process.logged("ready; try")
        (self.folder / "schemathesis.toml").write_text(CONFIGURATION)
        arguments = [
            sys.executable,
            "-c",
            RUN,
            "--config-file",
            "schemathesis.toml",
            "run",
            f"https://localhost:{port}/openapi.json",
        ]
        arguments += [
            "--tls-verify",
            "certs/ca.pem",
            "--seed",
            "7",
            "--max-examples",
            "25",
            "--checks",
            "all",
            # This answer has no end.
            "--exclude-path",
            "/api/v1/events",
            "--no-color",
        ]
        run = self.spawn(arguments, {"SCHEMATHESIS_HOOKS": "tests.support.schema_hooks"})
        self.assertEqual(await run.ended, 0, run.log + run.errors)
        self.assertRegex(run.log, r"Operations: +12 selected / 13 total")
        self.assertNotIn("Traceback", process.log)
        await self.stop(process)


if find_spec("schemathesis") is None:
    Schemathesis.skip = "schemathesis is not installed"

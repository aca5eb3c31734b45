"""``python -m rtprov.health``, against a server in a thread of this process."""

from __future__ import annotations

import contextlib
import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from twisted.trial.unittest import SynchronousTestCase

from rtprov.health import VARIABLES, main, url_of, urls_of
from rtprov.tap.environment_variables import PREFIX, ROLES
from rtprov.tap.option_values import server_endpoint

BROKEN = {
    "/stalls": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 50\r\n\r\nabc",
    "/chunks": b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\nzz",
    "/other": b"\x15\x03\x01\0\x02\x02\x16",
}


class Answers(BaseHTTPRequestHandler):
    """Answers each path with the status that it names, ``/readyz`` with 200, or with the bytes in
    `BROKEN`.
    """

    timeout = 10.0

    def do_GET(self) -> None:
        if self.path in BROKEN:
            self.wfile.write(BROKEN[self.path])
            if self.path == "/stalls":
                self.rfile.read(1)  # until the client closes the connection
            return
        status = int(self.path.rpartition("/")[2].replace("readyz", "200"))
        body = b'{"code": %d}' % status
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing is logged."""


class Health(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = HTTPServer(("127.0.0.1", 0), Answers)
        self.addCleanup(self.server.server_close)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def run_main(self, *arguments: str, environment: dict[str, str]) -> tuple[int, str, str]:
        """The exit status, standard output and standard error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(arguments, environment)
            except SystemExit as error:
                status = int(error.code or 0)
        return status, out.getvalue(), err.getvalue()

    def answer_one(self) -> None:
        server = threading.Thread(target=self.server.handle_request)
        server.start()
        self.addCleanup(server.join)

    def ask(self, path: str, *options: str) -> tuple[int, str, str]:
        self.answer_one()
        return self.run_main(f"{self.url}/{path}", *options, environment={})

    def test_ready(self) -> None:
        """An answer of 200 is printed, and the exit status is 0."""
        self.assertEqual(self.ask("200"), (0, '{"code": 200}\n', ""))

    def test_not_ready(self) -> None:
        """An answer of 503 goes to standard error, and the exit status is 1."""
        self.assertEqual(self.ask("503"), (1, "", '{"code": 503}\n'))

    def test_incomplete(self) -> None:
        """An answer that stalls, ends too early, or is not HTTP is exit status 1, and one line."""
        for path, status, why in (
            ("stalls", " (HTTP 503)", "timed out"),
            ("chunks", " (HTTP 503)", "IncompleteRead(0 bytes read)"),
            ("other", "", r"BadStatusLine('\x15\x03\x01\x00\x02\x02\x16')"),
        ):
            line = f"cannot reach {self.url}/{path}{status}: {why}\n"
            self.assertEqual(self.ask(path, "--timeout", "0.2"), (1, "", line))

    def test_out_of_reach(self) -> None:
        """A port on which nothing listens is exit status 1, and one line."""
        self.server.server_close()
        status, out, error = self.run_main(f"{self.url}/200", environment={})
        self.assertEqual((status, out), (1, ""))
        self.assertRegex(error, rf"\Acannot reach {self.url}/200: .*refused\n\Z")

    def test_other_schemes(self) -> None:
        """Only http and https are asked."""
        status, _, error = self.run_main("file:///etc/passwd", environment={})
        self.assertEqual((status, error.count("\n")), (1, 1))

    def test_usage(self) -> None:
        """Without a URL, and without --health-listen in the environment, it is a usage error."""
        for environment in ({}, {"RTPROV_HEALTH_LISTEN": "unix:/run/health"}):
            status, _, error = self.run_main(environment=environment)
            self.assertEqual(status, 2)
            self.assertIn("give a URL", error)

    def test_of_one_command(self) -> None:
        """A port of one command is found without a common one, and before it. A command that does
        not run here does not matter.
        """
        here = f"tcp:{self.server.server_address[1]}:interface=127.0.0.1"
        closed = HTTPServer(("127.0.0.1", 0), Answers)
        closed.server_close()
        nowhere = f"tcp:{closed.server_address[1]}:interface=127.0.0.1"
        for environment in (
            {"RTPROV_FRONTEND_HEALTH_LISTEN": here},
            {"RTPROV_WORKER_HEALTH_LISTEN": here, "RTPROV_HEALTH_LISTEN": nowhere},
            {"RTPROV_FRONTEND_HEALTH_LISTEN": nowhere, "RTPROV_HEALTH_LISTEN": here},
            {"RTPROV_FRONTEND_HEALTH_LISTEN": nowhere, "RTPROV_BROKER_HEALTH_LISTEN": here},
        ):
            self.answer_one()
            self.assertEqual(
                self.run_main(environment=environment), (0, '{"code": 200}\n', ""), environment
            )
        status, out, error = self.run_main(environment={"RTPROV_STUB_HEALTH_LISTEN": nowhere})
        self.assertEqual((status, out, error.count("cannot reach")), (1, "", 1))

    def test_all_commands(self) -> None:
        """The variables of all commands are known. A port that several have is asked once."""
        self.assertEqual(
            set(VARIABLES),
            {f"{PREFIX}{role}_HEALTH_LISTEN" for role in ROLES} | {f"{PREFIX}HEALTH_LISTEN"},
        )
        self.assertEqual(
            urls_of(dict.fromkeys(VARIABLES, "tcp:8080")), ["http://127.0.0.1:8080/readyz"]
        )

    def test_from_environment(self) -> None:
        """The URL follows from the value of --health-listen."""
        for listen, url in (
            ("tcp:8080", "http://127.0.0.1:8080/readyz"),
            ("tcp:port=8080", "http://127.0.0.1:8080/readyz"),
            ("tcp:8080:interface=10.0.0.7", "http://10.0.0.7:8080/readyz"),
            ("tcp:8080:interface=0.0.0.0", "http://127.0.0.1:8080/readyz"),
            (r"tcp:8080:interface=\:\:1", "http://[::1]:8080/readyz"),
            (r"tcp:8080:interface=\:\:", "http://[::1]:8080/readyz"),
            ("tcp:8080:10.0.0.7", "http://10.0.0.7:8080/readyz"),
            ("tcp:8080:backlog=64", "http://127.0.0.1:8080/readyz"),
            ("tcp:8080:interface=0.0.0.0:backlog=64", "http://127.0.0.1:8080/readyz"),
            ("tcp:8080:interface=", "http://127.0.0.1:8080/readyz"),
            ("tcp:interface=10.0.0.7:port=8080", "http://10.0.0.7:8080/readyz"),
            ("tcp6:8080", "http://[::1]:8080/readyz"),
            (r"tcp6:interface=fd00\:\:7:port=8080", "http://[fd00::7]:8080/readyz"),
            (r"tcp6:port=8080:interface=\:\::backlog=64", "http://[::1]:8080/readyz"),
            ("unix:/run/health", None),
            ("tcp:port", None),
            ("tcp:", None),
            ("", None),
        ):
            self.assertEqual(url_of(listen), url, listen)
            if url is not None:
                server_endpoint(listen)  # --health-listen accepts it

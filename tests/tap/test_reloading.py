"""Files that are replaced while a server runs, with a virtual clock."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from twisted.application.service import IService, Service
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers

from rtprov.errors import ConfigurationError, CredentialsUnknown, TooManyRequests
from rtprov.http.admission import Admission, Caller
from rtprov.security.tls_server import ServerIdentity
from rtprov.security.tokens import new_token
from rtprov.tap.command import Command
from rtprov.tap.frontend import make_admission
from rtprov.tap.reloading import LOOK_EVERY_S, WARN_EVERY_S, Renewal
from tests.support.command_files import parsed
from tests.support.renewal_case import RenewalTestCase
from tests.support.scale import slow


class Certificates(RenewalTestCase):
    def test_replaced(self) -> None:
        """Replaced certificates are loaded within seconds, once."""
        self.start()
        self.assertEqual(self.look(), [])
        self.issue()
        self.assertEqual(self.look(), ["certificates reloaded"])
        self.assertEqual(self.look(), [])

    def test_half_replaced(self) -> None:
        """If certificate and key do not match, this is logged once. They are loaded when they
        match.
        """
        self.start()
        key = self.key.read_bytes()
        self.issue()
        new_key = self.key.read_bytes()
        self.key.write_bytes(key)
        text = (
            "certificates not reloaded, the previous version stays in use:"
            f" {self.key}: is not the PEM private key for {self.certificate}"
        )
        self.assertEqual(self.look(), [text])
        self.assertEqual(self.look(), [])
        self.key.write_bytes(new_key + b"\n")
        self.assertEqual(self.look(), ["certificates reloaded"])

    def test_gone(self) -> None:
        """A missing file is logged once, and not again with the daily look at the expiry."""
        self.start()
        self.certificate.unlink()
        text = f"{self.certificate}: cannot read the certificate: No such file or directory"
        self.assertEqual(
            self.look(), [f"certificates not reloaded, the previous version stays in use: {text}"]
        )
        self.clock.advance(WARN_EVERY_S)
        self.assertEqual(self.look(), [])

    @slow
    def test_expiry(self) -> None:
        """A certificate that expires soon is logged when it is loaded, and then every day."""
        self.start()
        self.issue(days=13.5)
        loaded, warning = self.look()
        self.assertEqual(loaded, "certificates reloaded")
        self.assertTrue(
            warning.startswith(f"{self.certificate}: the certificate expires on "), warning
        )
        self.lines.clear()
        self.clock.pump([LOOK_EVERY_S] * int(3 * WARN_EVERY_S / LOOK_EVERY_S))
        self.assertEqual(self.lines, [warning] * 3)

    def test_stopped(self) -> None:
        """A server that was stopped does not watch its files."""
        self.start().stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Tokens(RenewalTestCase):
    """A file with the token `first` that the front end watches."""

    def setUp(self) -> None:
        super().setUp()
        self.file = self.certs / "tokens"
        self.first, self.secret = new_token("first")
        self.file.write_text(self.first.line)

    def admission(
        self, tokens: Path | None, rate: float | None = None
    ) -> tuple[Admission, list[Renewal]]:
        return make_admission(
            client_ca=None,
            tokens=tokens,
            role_of=[],
            rate=rate,
            clock=cast("IReactorTime", self.clock),
        )

    def watch(self) -> Admission:
        admission, (self.renewal,) = self.admission(self.file)
        self.renewal.startService()
        self.addCleanup(self.renewal.stopService)
        return admission

    def test_watched(self) -> None:
        """Without a signal, a removed token is refused within 5 s, and an added one is accepted."""
        admission, (second, _) = self.watch(), new_token("second")
        self.assertEqual(admission.tokens, (self.first,))
        headers = Headers({"Authorization": [f"Bearer {self.secret}"]})
        self.assertEqual(admission.admit(headers, Caller("address:local")).name, "token:first")
        self.file.write_text(second.line)
        self.clock.pump([1.0] * 5)
        self.assertEqual((admission.tokens, self.lines), ((second,), ["tokens reloaded"]))
        self.assertRaises(CredentialsUnknown, admission.admit, headers, Caller("address:local"))

    def test_reload_at_once(self) -> None:
        """`reload` loads the file at once, whether or not it has changed."""
        self.watch()
        self.renewal.reload()
        self.assertEqual(self.lines, ["tokens reloaded"])

    def test_broken(self) -> None:
        """A file with a mistake, or a missing file, changes nothing. This is logged once, without
        the content.
        """
        admission = self.watch()
        self.file.write_text(f"{self.first.line}\ns3cr3t")
        (line,) = self.look()
        self.assertIn(
            f"tokens not reloaded, the previous version stays in use: {self.file}: line 2: ", line
        )
        self.assertNotIn("s3cr3t", line)
        self.file.unlink()
        self.assertEqual(len(self.look()), 1)
        self.assertEqual((self.look(), admission.tokens), ([], (self.first,)))

    def test_empty(self) -> None:
        """A file that becomes empty may be in the middle of being written: its tokens stay valid
        until the next look. If it stays empty, they are refused within 5 s. A file that contains
        only a comment, or is empty at the start, means at once that there are no tokens.
        """
        admission = self.watch()
        empty = f"the previous version stays in use: {self.file}: is empty, "
        loaded = ["tokens reloaded"]
        for _ in range(2):
            self.file.write_text("")
            (line,) = self.look()
            self.assertIn(empty, line)
            self.assertEqual(admission.tokens, (self.first,))
            self.file.write_text(f"{self.first.line}\n")
            self.assertEqual((self.look(), admission.tokens), (loaded, (self.first,)))
        self.file.write_text("")
        (line,) = self.look()
        self.assertIn(empty, line)
        self.assertEqual((self.look(), self.look(), admission.tokens), (loaded, [], ()))
        self.file.write_text(self.first.line)
        self.assertEqual((self.look(), admission.tokens), (loaded, (self.first,)))
        self.file.write_text("#\n")
        self.assertEqual((self.look(), admission.tokens), (loaded, ()))
        self.file.write_text("")
        self.assertEqual(self.admission(self.file)[0].tokens, ())

    def test_an_error_that_passes(self) -> None:
        """After an error that has nothing to do with the content, the file is tried again until it
        is loaded. The error is logged once, or once more after SIGHUP.
        """
        admission = self.watch()
        self.file.write_text("# nobody\n")
        text = f"{self.file}: cannot read the tokens: {os.strerror(errno.EMFILE)}"
        line = f"tokens not reloaded, the previous version stays in use: {text}"
        with self.no_more_files():
            self.assertEqual((self.look(), self.look()), ([line], []))
            self.renewal.reload()
            self.assertEqual((list(self.lines), self.look()), ([line], []))
        self.assertEqual(admission.tokens, (self.first,))
        self.assertEqual((self.look(), self.look()), (["tokens reloaded"], []))
        self.assertEqual(admission.tokens, ())
        self.file.write_text("# nobody\n")
        with self.no_more_files():
            self.assertEqual(self.look(), [line])

    @contextmanager
    def no_more_files(self) -> Iterator[None]:
        """Let files not be read, as if the process had no free file descriptor."""

        def read_bytes(_: Path) -> bytes:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        patch = self.patch(Path, "read_bytes", read_bytes)
        try:
            yield
        finally:
            patch.restore()

    def test_an_error_of_ours(self) -> None:
        """After an internal error the file is still watched. The error is logged once."""
        self.watch()
        self.patch(self.renewal._files, "load", lambda: 1 // 0)
        self.renewal.reload()
        self.look()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(self.renewal._looking.running)

    def test_none(self) -> None:
        """Without a file no token is required, and no file is watched."""
        admission, watching = self.admission(None)
        self.assertEqual((admission.tokens, watching), (None, []))

    def test_rate(self) -> None:
        """Rates use the awake clock, which does not step with the system's clock."""
        admission, _ = self.admission(None, rate=1.0)
        caller = Caller("address:192.0.2.7")
        admission.admit(Headers(), caller)
        self.assertRaises(TooManyRequests, admission.admit, Headers(), caller)
        self.clock.advance(1.0)
        admission.admit(Headers(), caller)

    def test_wrong_at_the_start(self) -> None:
        """A tokens file that cannot be used at the start ends the command."""
        self.assertRaises(ConfigurationError, self.admission, self.certs / "none")


class Hangup(RenewalTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(sys, "excepthook", sys.excepthook)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def command(self, *services: Service) -> Command:
        command = Command(parsed("rtprov-stub"), *cast("list[IService]", services))
        command.startService()
        for each in command:
            self.addCleanup(each.stopService)
        return command

    def test_nothing_to_reload(self) -> None:
        """A command without files to reload ignores SIGHUP."""
        command = self.command(Service())
        self.assertTrue(callable(signal.getsignal(signal.SIGHUP)))
        command.reload()
        self.assertEqual(self.lines, [])

    def test_while_it_stops(self) -> None:
        """SIGHUP is ignored from the start of the stop until the process ends."""
        self.successResultOf(self.command().stopService())
        self.assertIs(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)

    def test_reload(self) -> None:
        """SIGHUP reloads the files of a command."""
        identity = ServerIdentity(self.certificate, self.key)
        command = self.command(Renewal(identity, clock=cast("IReactorTime", self.clock)), Service())
        self.assertTrue(callable(signal.getsignal(signal.SIGHUP)))
        command.reload()
        self.assertEqual(self.lines, ["certificates reloaded"])
        for each in command:
            each.stopService()

"""What commands consist of: the order of services, files, the sealing key. Every command can be
created.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime, timezone
from pathlib import Path

import trustme
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from rtprov.errors import ConfigurationError
from rtprov.security.development import SEAL_KEY, ensure_seal_key, make_development_set
from rtprov.security.sealer import new_key
from rtprov.security.tokens import Role
from rtprov.tap.command import Closing, Command, SequentialMultiService
from rtprov.tap.frontend import roles_by_name
from rtprov.tap.identity import ca_file, identity_files, key_file, server_identity
from rtprov.tap.stub import rules
from tests.support.command_files import FilesTestCase, parsed
from tests.support.command_lines import MODULES


class Slow(Service):
    """Records when it starts and stops. Its stop ends when `stopped` fires."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self._word, self._diary = name, diary
        self.stopped: Deferred[None] = Deferred()

    def startService(self) -> None:
        super().startService()
        self._diary.append(f"start {self._word}")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._diary.append(f"stop {self._word}")
        return self.stopped


class Order(SynchronousTestCase):
    def setUp(self) -> None:
        self.diary: list[str] = []
        self.a, self.b = Slow("a", self.diary), Slow("b", self.diary)
        self.services = SequentialMultiService()
        for each in (self.a, self.b):
            each.setServiceParent(self.services)
        self.services.startService()
        self.stopped = self.services.stopService()

    def test_order(self) -> None:
        """Services start in order and stop one after the other in reverse order."""
        self.assertEqual(self.diary, ["start a", "start b", "stop b"])
        self.b.stopped.callback(None)
        self.assertEqual(self.diary, ["start a", "start b", "stop b", "stop a"])
        self.assertNoResult(self.stopped)
        self.a.stopped.callback(None)
        self.successResultOf(self.stopped)
        self.assertFalse(self.services.running)

    def test_one_that_fails_to_stop(self) -> None:
        """If a service fails to stop, the failure is logged and the other services are stopped."""
        self.b.stopped.errback(ZeroDivisionError())
        self.a.stopped.callback(None)
        self.successResultOf(self.stopped)
        self.assertEqual(self.diary[2:], ["stop b", "stop a"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_closing(self) -> None:
        """`Closing` calls its function when it is stopped."""
        closed: list[str] = []
        self.successResultOf(Closing(lambda: closed.append("closed")).stopService())
        self.assertEqual(closed, ["closed"])


class Files(FilesTestCase):
    def test_from_the_folder(self) -> None:
        """Without options for single files, those of the folder are used."""
        make_development_set(self.certs)
        self.assertEqual(
            identity_files("stub", certs=self.certs),
            (self.certs / "stub.pem", self.certs / "stub.key"),
        )
        self.assertEqual(ca_file(self.certs, None), self.certs / "ca.pem")
        server_identity("stub", certs=self.certs)

    def test_expired(self) -> None:
        """An expired certificate is used, and the log warns."""
        make_development_set(self.certs)
        leaf = trustme.CA().issue_cert(
            "localhost", not_after=datetime(2020, 1, 1, tzinfo=timezone.utc)
        )
        leaf.cert_chain_pems[0].write_to_path(str(self.certs / "stub.pem"))
        (self.certs / "stub.key").write_bytes(leaf.private_key_pem.bytes())
        with capturedLogs() as events:
            server_identity("stub", certs=self.certs)
        lines = [formatEvent(event) for event in events]
        self.assertEqual(
            lines,
            [f"{self.certs / 'stub.pem'}: the certificate has expired on 2020-01-01 00:00 UTC"],
        )

    def test_single_files(self) -> None:
        """Options for single files take precedence over the folder, which may be missing."""
        files = (Path("/a.pem"), Path("/a.key"))
        self.assertEqual(
            identity_files("stub", certs=self.certs, certificate=files[0], private_key=files[1]),
            files,
        )
        self.assertEqual(ca_file(self.certs, Path("/ca.pem")), Path("/ca.pem"))

    def test_missing(self) -> None:
        """The error for a file that the folder lacks has the command that creates a set."""
        advice = f"is missing; python -m rtprov.certs {self.certs} makes a set for development"
        self.assert_refused(
            f"{self.certs / 'stub.pem'} {advice}", identity_files, "stub", certs=self.certs
        )
        self.assert_refused(f"{self.certs / 'ca.pem'} {advice}", ca_file, self.certs, None)

    def test_missing_single_file(self) -> None:
        """The error for a missing single file does not offer to create a set."""
        make_development_set(self.certs)
        key = self.certs.parent / "a.key"
        text = f"{key}: cannot read the private key: No such file or directory"
        self.assert_refused(text, server_identity, "stub", certs=self.certs, private_key=key)

    def test_key_of_another(self) -> None:
        """The error for a private key that does not match the certificate names both files."""
        make_development_set(self.certs)
        key = self.certs / "frontend.key"
        text = f"{key}: is not the PEM private key for {self.certs / 'stub.pem'}"
        self.assert_refused(text, server_identity, "stub", certs=self.certs, private_key=key)


class SealingKey(FilesTestCase):
    def test_file_of_the_folder(self) -> None:
        """The key file of the folder is loaded. One sealer opens what another one has sealed."""
        ensure_seal_key(self.certs / SEAL_KEY)
        one, other = (key_file(self.certs, None).sealer for _ in range(2))
        self.assertEqual(other.open(one.seal(b"body"), one.key_id), b"body")

    def test_missing(self) -> None:
        """A missing file is not created when it is loaded, because the broker decides whether that
        is allowed. Until then there is no key.
        """
        keys = key_file(self.certs, None)
        self.assertEqual((keys.found(), keys.sealer.key_ids), (False, ()))
        self.assertFalse(self.certs.exists())
        keys.make()
        self.assertTrue((self.certs / SEAL_KEY).exists())
        self.assertEqual(len(keys.sealer.key_ids), 1)

    def test_comes_meanwhile(self) -> None:
        """If the file appears before one is created, it is loaded and not changed."""
        keys = key_file(self.certs, None)
        ensure_seal_key(self.certs / SEAL_KEY)
        text = (self.certs / SEAL_KEY).read_text()
        keys.make()
        self.assertEqual((self.certs / SEAL_KEY).read_text(), text)
        self.assertTrue(keys.found())

    def test_seal_keys_option(self) -> None:
        """``--seal-keys`` names another file."""
        file = self.certs.parent / "keys"
        file.write_text(f"{new_key()}\n{new_key()}\n")
        self.assertEqual(len(key_file(self.certs, file).sealer.key_ids), 2)
        self.assertFalse(self.certs.exists())

    def test_file_without_a_key(self) -> None:
        """The error for a file without a key has the line number and shows no content."""
        file = self.certs.parent / "keys"
        file.write_bytes(b"s3cr3t\xff\n")
        self.assert_refused(
            f"{file}: line 1 is not a Fernet key (32 bytes in URL-safe base64)",
            key_file,
            self.certs,
            file,
        )

    def test_cannot_be_read(self) -> None:
        """A file that exists and cannot be read is an error; it does not count as missing."""
        self.certs.mkdir()
        (self.certs / SEAL_KEY).mkdir()
        self.assert_refused(
            f"{self.certs / SEAL_KEY}: cannot read the sealing keys: Is a directory",
            key_file,
            self.certs,
            None,
        )


class Roles(FilesTestCase):
    def test_name_given_twice(self) -> None:
        """A name has one role of --role-of. A second one is a configuration error, not chosen."""
        two = [("ops", Role.READ), ("Ops", Role.OPERATE)]
        self.assertEqual(roles_by_name(two), {"ops": Role.READ, "Ops": Role.OPERATE})
        for role in (Role.READ, Role.OPERATE):
            error = self.assertRaises(ConfigurationError, roles_by_name, [*two, ("ops", role)])
            self.assertEqual(error.exit_status, 78)
            self.assertEqual(
                str(error), "--role-of: the name ops is given twice: give it one role only"
            )

    def test_commands(self) -> None:
        """Each command that has the option refuses it."""
        self.patch(sys, "excepthook", sys.excepthook)
        environ = {"RTPROV_CERTS": str(self.certs), "RTPROV_ROLE_OF": "ops=read,ops=operate"}
        self.patch(os, "environ", environ)
        make_development_set(self.certs)
        for name in ("rtprov", "rtprov-frontend"):
            self.assert_refused(
                "--role-of: the name ops is given twice: give it one role only",
                namedAny(MODULES[name]).makeService,
                parsed(name),
            )


class ScenarioFile(FilesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.certs.parent / "scenario.toml"

    def test_no_file(self) -> None:
        """Without a file there are no rules of the scenario."""
        self.assertEqual(rules(None), ())

    def test_rules(self) -> None:
        """The rules keep the order of the file."""
        self.file.write_text(
            '[[rule]]\nmatch = "SLOW.*"\nanswer = 200\ndelay = 90\n\n[[rule]]\nmatch ='
            ' "A.*"\nanswer = "hang"\n'
        )
        self.assertEqual(
            [(rule.match.pattern, rule.answer) for rule in rules(self.file)],
            [("SLOW.*", 200), ("A.*", "hang")],
        )

    def test_invalid_file(self) -> None:
        """The error for a missing or invalid file is one line with the file and the place."""
        self.assert_refused(
            f"{self.file}: cannot read the scenario: No such file or directory", rules, self.file
        )
        self.file.write_bytes(b'[[rule]]\nmatch = "(\xff"\nanswer = 200\n')
        error = self.assertRaises(ConfigurationError, rules, self.file)
        self.assertTrue(
            str(error).startswith(f"{self.file}: rule 1: match: not a regular expression: "), error
        )
        self.assertNotIn("\n", str(error))


class Commands(FilesTestCase):
    def test_default_options(self) -> None:
        """Every command creates a service from its default options, if the certificates exist. The
        service is not started.
        """
        self.patch(sys, "excepthook", sys.excepthook)
        self.patch(os, "environ", {"RTPROV_CERTS": str(self.certs)})
        make_development_set(self.certs)
        for module in map(namedAny, MODULES.values()):
            options = module.Options()
            options.parseOptions([])
            service = module.makeService(options)
            verifyObject(IService, service)
            self.assertIsInstance(service, Command)
            self.assertFalse(service.running)

    def test_twist(self) -> None:
        """twist does not call `privilegedStartService`. Then `startService` does."""
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        diary: list[str] = []

        class Privileged(Slow):
            def privilegedStartService(self) -> None:
                diary.append("privileged")

        for prepare, expected in (
            (False, ["privileged", "start a"]),
            (True, ["privileged", "start a"]),
        ):
            diary.clear()
            self.patch(sys, "excepthook", sys.excepthook)
            command = Command(parsed("rtprov-stub"), Privileged("a", diary))
            if prepare:
                command.privilegedStartService()
            command.startService()
            for each in command:
                self.addCleanup(each.stopService)
            self.assertEqual(diary, expected)

    def test_stop_now(self) -> None:
        """A command whose services have no calls to drain accepts `stop_now`."""
        self.patch(sys, "excepthook", sys.excepthook)
        Command(parsed("rtprov-stub"), Slow("a", [])).stop_now()

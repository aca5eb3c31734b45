"""Development certificates and the sealing key: which files are made, with which modes. Nothing is
ever overwritten.
"""

from __future__ import annotations

import io
import os
import runpy
import stat
import sys
import tempfile
import warnings
from pathlib import Path
from time import time

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import ConfigurationError
from rtprov.security.certificates import server_options
from rtprov.security.development import FILES, SEAL_KEY, ensure_seal_key, main, make_development_set
from rtprov.security.sealer import load_keys
from rtprov.security.tls_client import VerifiedServers


class CertsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "new" / "certs"

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def mode(self, name: str) -> int:
        return stat.S_IMODE((self.folder / name).stat().st_mode)

    def with_umask(self, mask: int) -> None:
        self.addCleanup(os.umask, os.umask(mask))


class DevelopmentSet(CertsTestCase):
    def test_made(self) -> None:
        """The complete set is made, in a folder that need not exist, and nothing else."""
        self.assertTrue(make_development_set(self.folder))
        self.assertEqual(set(self.contents()), set(FILES))
        expected = {
            "ca.pem",
            "frontend.pem",
            "frontend.key",
            "stub.pem",
            "stub.key",
            "broker.pem",
            "broker.key",
            "worker.pem",
            "worker.key",
        }
        self.assertEqual(set(FILES), expected)

    def test_modes(self) -> None:
        """Keys are readable only by their owner, whatever the umask. Certificates are readable by
        everyone.
        """
        self.with_umask(0)
        make_development_set(self.folder)
        ensure_seal_key(self.folder / SEAL_KEY)
        for name in self.contents():
            self.assertEqual(self.mode(name), 0o600 if name.endswith(".key") else 0o644, name)

    def test_usable(self) -> None:
        """Each certificate matches its key and was signed by the CA."""
        make_development_set(self.folder)
        ca = self.folder / "ca.pem"
        for name in ("frontend", "stub", "broker", "worker"):
            files = (self.folder / f"{name}.pem", self.folder / f"{name}.key")
            server_options(*files, ca)
            VerifiedServers(ca, *files, wall_clock=time)
            certificate = x509.load_pem_x509_certificate(files[0].read_bytes())
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.read_bytes()))

    def test_names(self) -> None:
        """Servers are named localhost, 127.0.0.1 and ::1."""
        make_development_set(self.folder)
        for name in ("frontend", "stub", "broker"):
            certificate = x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())
            names = certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            ).value
            self.assertEqual(names.get_values_for_type(x509.DNSName), ["localhost"])
            self.assertEqual(
                [str(address) for address in names.get_values_for_type(x509.IPAddress)],
                ["127.0.0.1", "::1"],
            )

    def test_without_a_broker(self) -> None:
        """A set from before the broker had a certificate is complete without one, but not with half
        of one.
        """
        make_development_set(self.folder)
        (self.folder / "broker.pem").unlink()
        self.assertRaises(ConfigurationError, make_development_set, self.folder)
        (self.folder / "broker.key").unlink()
        self.assertFalse(make_development_set(self.folder))
        self.assertNotIn("broker.pem", self.contents())

    def test_never_overwritten(self) -> None:
        """An existing set is not changed."""
        make_development_set(self.folder)
        before = self.contents()
        self.assertFalse(make_development_set(self.folder))
        self.assertEqual(self.contents(), before)

    def test_incomplete(self) -> None:
        """An incomplete set is an error that names what is missing. Nothing is written."""
        make_development_set(self.folder)
        for name in ("stub.key", "ca.pem"):
            (self.folder / name).unlink()
        before = self.contents()
        error = self.assertRaises(ConfigurationError, make_development_set, self.folder)
        expected = (
            f"{self.folder}: the set of certificates is incomplete, ca.pem, stub.key missing;"
            " nothing was overwritten"
        )
        self.assertEqual(str(error), expected)
        self.assertEqual(self.contents(), before)

    def test_other_files(self) -> None:
        """Other files in the folder do not matter."""
        self.folder.mkdir(parents=True)
        (self.folder / "README.md").write_bytes(b"ours")
        self.assertTrue(make_development_set(self.folder))
        self.assertEqual(self.contents()["README.md"], b"ours")

    def test_link_into_nowhere(self) -> None:
        """A dangling symbolic link is not written through, and no file of the set is left."""
        self.folder.mkdir(parents=True)
        target = self.folder.parent / "target.key"
        (self.folder / "stub.key").symlink_to(target)
        error = self.assertRaises(ConfigurationError, make_development_set, self.folder)
        self.assertEqual(
            str(error),
            f"{self.folder / 'stub.key'}: cannot write the development certificates: File exists",
        )
        self.assertFalse(target.exists())
        self.assertEqual([path.name for path in self.folder.iterdir()], ["stub.key"])

    def test_unwritable(self) -> None:
        """A folder that cannot be written gives an error of one line."""
        self.folder.parent.mkdir()
        self.folder.write_bytes(b"a file")
        error = self.assertRaises(ConfigurationError, make_development_set, self.folder)
        self.assertEqual(
            str(error), f"{self.folder}: cannot write the development certificates: File exists"
        )


class SealingKey(CertsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.folder / SEAL_KEY

    def test_made(self) -> None:
        """The file is made with one valid key, in a folder that need not exist, and only once."""
        self.with_umask(0)
        self.assertTrue(ensure_seal_key(self.file))
        before = self.contents()
        self.assertEqual(set(before), {SEAL_KEY})
        self.assertEqual(len(load_keys(before[SEAL_KEY].decode())), 1)
        self.assertEqual(self.mode(SEAL_KEY), 0o600)
        self.assertFalse(ensure_seal_key(self.file))
        self.assertEqual(self.contents(), before)

    def test_link_into_nowhere(self) -> None:
        """A dangling symbolic link is not changed, and does not count as a key file."""
        self.folder.mkdir(parents=True)
        self.file.symlink_to(self.folder / "gone")
        self.assertFalse(ensure_seal_key(self.file))
        self.assertEqual([path.name for path in self.folder.iterdir()], [SEAL_KEY])

    def test_unwritable(self) -> None:
        """A folder that cannot be written gives an error of one line."""
        self.folder.parent.mkdir()
        self.folder.write_bytes(b"a file")
        error = self.assertRaises(ConfigurationError, ensure_seal_key, self.file)
        self.assertEqual(str(error), f"{self.file}: cannot make the sealing key: File exists")


class Command(CertsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.out, self.err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def test_made(self) -> None:
        """The command prints what it has made, and the second time that there is nothing to do."""
        self.assertEqual(main([str(self.folder)]), 0)
        self.assertEqual(main([str(self.folder)]), 0)
        made = (
            f"{self.folder}: made development certificates and a sealing key\n"
            f"{self.folder}: all files exist already\n"
        )
        self.assertEqual((self.out.getvalue(), self.err.getvalue()), (made, ""))
        self.assertEqual(set(self.contents()), {*FILES, SEAL_KEY})

    def test_more_names(self) -> None:
        """``--name`` adds host names and addresses to the servers' certificates, and to
        no other.
        """
        names = ["b.example", "*.b.example", "192.0.2.7", "2001:db8::7", "B2.example."]
        self.assertEqual(main([str(self.folder), *(f"--name={name}" for name in names)]), 0)
        for name in ("frontend", "stub", "broker", "worker"):
            certificate = x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())
            found = certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            ).value
            hosts = found.get_values_for_type(x509.DNSName)
            addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
            if name == "worker":
                self.assertEqual((hosts, addresses), (["rtprov-worker"], []))
            else:
                self.assertEqual(hosts, ["localhost", "b.example", "*.b.example", "b2.example"])
                self.assertEqual(addresses, ["127.0.0.1", "::1", "192.0.2.7", "2001:db8::7"])
        self.assertEqual(main([str(self.folder), "--name", "b.example"]), 0)

    def test_wrong_names(self) -> None:
        """An invalid name, and a name that the existing set does not have, is an error of one line.
        Nothing is made or changed.
        """
        for name in (
            "",
            "a b",
            "joe@b.example",
            "-b",
            "b..example",
            "a.*.example",
            "б.example",
            "b" * 64,
            "192.0.2.0/24",
        ):
            self.assertEqual(main([str(self.folder), f"--name={name}"]), 78)
        self.assertFalse(self.folder.exists())
        main([str(self.folder)])
        before = self.contents()
        self.err.truncate(0)
        self.assertEqual(main([str(self.folder), "--name=b.example", "--name=localhost"]), 78)
        line = (
            r"\A\0*rtprov.certs: .*/frontend.pem: exists already, without b.example; nothing was"
            r" overwritten; .*\n\Z"
        )
        self.assertRegex(self.err.getvalue(), line)
        self.assertEqual(self.contents(), before)

    def test_mistake(self) -> None:
        """A mistake gives one line on standard error, and exit status 1."""
        make_development_set(self.folder)
        (self.folder / "ca.pem").unlink()
        self.assertEqual(main([str(self.folder)]), 78)
        self.assertRegex(
            self.err.getvalue(), r"\Artprov.certs: .* ca.pem missing; nothing was overwritten\n\Z"
        )
        self.assertEqual(self.out.getvalue(), "")

    def test_module(self) -> None:
        """``python -m rtprov.certs DIR`` runs this command."""
        self.patch(sys, "argv", ["rtprov.certs", str(self.folder)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the module has been imported before
            error = self.assertRaises(
                SystemExit, runpy.run_module, "rtprov.certs", run_name="__main__"
            )
        self.assertEqual(error.code, 0)
        self.assertEqual(set(self.contents()), {*FILES, SEAL_KEY})

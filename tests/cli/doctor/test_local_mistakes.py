"""Mistakes in files, variables and limits that ``rtprov doctor --local`` finds."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from rtprov.cli.doctor.finding import Check, Finding, Level
from rtprov.cli.doctor.surroundings import free_space, open_files
from rtprov.cli.doctor.verb import doctor
from rtprov.cli.verbs.keys import key
from rtprov.cli.verbs.tokens import token
from rtprov.security.development import SEAL_KEY
from rtprov.security.sealer import new_key
from rtprov.security.tokens import Role, new_token
from rtprov.tap.environment_variables import OPTIONS_OF, variable
from tests.support.certificates import DAY, Authority, dns
from tests.support.doctor_case import DoctorTestCase


class Nothing(DoctorTestCase):
    def test_no_mistake(self) -> None:
        """A set-up without a mistake has no finding, and the status is 0."""
        self.assertEqual(self.diagnose("--local", status=0), [])


class Refused(DoctorTestCase):
    """The system refuses to show a file. Other checks go on."""

    def test_path(self) -> None:
        """The name is too long, so that the system does not say what is there."""
        long = "x" * 300
        here = self.certs
        for option, check in (
            ("--seal-keys", "sealing keys"),
            ("--tokens", "tokens"),
            ("--pidfile", "pid file"),
            ("--state", "state"),
        ):
            self.assert_finds(check, "File name too long", option, str(here / long))
        self.certs = here / long
        options = ("--seal-keys", str(here / SEAL_KEY), "--ca", str(here / "ca.pem"))
        self.assert_finds("certificates", "File name too long", *options)

    def test_below_a_file(self) -> None:
        """A folder of the path is a file."""
        for option, check, words in (
            ("--seal-keys", "sealing keys", "does not exist"),
            ("--tokens", "tokens", "Not a directory"),
            ("--pidfile", "pid file", "Not a directory"),
        ):
            self.assert_finds(check, words, option, str(self.certs / "ca.pem" / "x"))

    def test_error_later(self) -> None:
        """An error ends its check only, and what the check found before is kept."""
        check = Check("state", "state")

        def findings() -> Iterator[Finding]:
            yield check.warning("first", "advice")
            raise PermissionError(errno.EACCES, "Permission denied", "locked/state")

        first, second = check.until_error(findings())
        self.assertEqual((first.message, second.level), ("first", Level.ERROR))
        self.assertEqual(second.message, "locked/state: Permission denied")
        self.assertIn("let this user read it", second.advice)

    def test_error_without_a_name(self) -> None:
        """An error that names no file is one of what the check is about."""

        def findings() -> Iterator[Finding]:
            raise OSError("it failed")
            yield

        (found,) = Check("disk", "state").until_error(findings())
        self.assertEqual(found.message, "state: it failed")


class Certificates(DoctorTestCase):
    def test_no_folder(self) -> None:
        """--certs names a folder that does not exist."""
        here = self.certs
        self.certs = self.folder / "cert"
        options = ("--seal-keys", str(here / SEAL_KEY), "--ca", str(here / "ca.pem"))
        self.assert_finds("certificates", "does not exist", *options)

    def test_no_authority(self) -> None:
        """ca.pem was not copied."""
        (self.certs / "ca.pem").unlink()
        self.assert_finds("ca", "No such file")

    def test_not_pem(self) -> None:
        """ca.pem was copied as DER."""
        (self.certs / "ca.pem").write_bytes(b"0\x82\x01\x0a")
        self.assert_finds("ca", "holds no PEM certificate")

    def test_utf_16(self) -> None:
        """ca.pem was saved by an editor as UTF-16."""
        text = (self.certs / "ca.pem").read_text()
        (self.certs / "ca.pem").write_text(text, "utf-16")
        self.assert_finds("ca", "UTF-16")

    def test_expired(self) -> None:
        """A certificate has expired."""
        self.reissue(begins_in=-30 * DAY, ends_in=-DAY)
        self.assert_finds("validity", "has expired")

    def test_expires_soon(self) -> None:
        """A certificate expires within two weeks."""
        self.reissue(ends_in=3 * DAY)
        self.assert_finds("validity", "expires on", level="warning")

    def test_not_yet_valid(self) -> None:
        """A certificate is not valid yet: a clock is wrong."""
        self.reissue(begins_in=DAY, ends_in=90 * DAY)
        self.assert_finds("validity", "is not valid before")

    def reissue(self, **options: object) -> None:
        issued = self.authority.issue(dns("b", "localhost"), **options)  # type: ignore[arg-type] # times
        issued.write(self.certs, "frontend")

    def test_another_key(self) -> None:
        """The key belongs to another certificate."""
        (self.certs / "frontend.key").write_bytes((self.certs / "worker.key").read_bytes())
        self.assert_finds("certificate", "is not the PEM private key for")

    def test_no_key(self) -> None:
        """The key was not copied."""
        (self.certs / "frontend.key").unlink()
        self.assert_finds("certificate", "the file is missing")

    def test_encrypted_key(self) -> None:
        """The key needs a passphrase."""
        identity = self.authority.issue(dns("b"), ends_in=90 * DAY)
        identity.write(self.certs, "frontend")
        encrypted = identity.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")
        )
        (self.certs / "frontend.key").write_bytes(encrypted)
        self.assert_finds("certificate", "is encrypted")

    def test_readable_key(self) -> None:
        """All users can read a private key."""
        (self.certs / "frontend.key").chmod(0o644)
        self.assert_finds("private key", "every user of this machine can read it (mode 0644)")

    def test_another_authority(self) -> None:
        """The certificate was signed by another CA than ca.pem."""
        Authority("another").issue(dns("b"), ends_in=90 * DAY).write(self.certs, "frontend")
        self.assert_finds("certificate", "is not signed by")

    def test_another_name(self) -> None:
        """The certificate is for another host than clients call."""
        self.assert_finds(
            "server name",
            "the certificate is for b, localhost, and not for c.example",
            "--url",
            "https://c.example",
        )

    def test_common_name_only(self) -> None:
        """The host is only in the common name, which clients ignore."""
        identity = self.authority.issue(None, common_names=["b"], ends_in=90 * DAY)
        identity.write(self.certs, "frontend")
        self.assert_finds("server name", "has no subjectAltName")


class Keys(DoctorTestCase):
    def test_no_key(self) -> None:
        """The sealing keys were not copied."""
        (self.certs / SEAL_KEY).unlink()
        self.assert_finds("sealing keys", "the file does not exist")

    def test_damaged(self) -> None:
        """Two keys stand in one line."""
        (self.certs / SEAL_KEY).write_text(new_key() + new_key())
        self.assert_finds("sealing keys", "line 1 is not a Fernet key")

    def test_readable(self) -> None:
        """All users can read the sealing keys."""
        (self.certs / SEAL_KEY).chmod(0o604)
        self.assert_finds("sealing keys", "every user of this machine can read it")

    def test_other_access(self) -> None:
        """All users can write or execute the sealing keys."""
        for mode, access in ((0o602, "write"), (0o606, "read"), (0o601, "execute")):
            (self.certs / SEAL_KEY).chmod(mode)
            words = f"every user of this machine can {access} it (mode {mode:04o})"
            self.assert_finds("sealing keys", words)

    def test_twice(self) -> None:
        """A rotation added the key that was there already."""
        key = new_key()
        (self.certs / SEAL_KEY).write_text(f"{key}\n{key}\n")
        self.assert_finds("sealing keys", "holds the same key twice", level="warning")

    def test_with_the_state(self) -> None:
        """The sealing keys are in the folder of the state, and so in its backup."""
        state = self.folder / "state"
        state.mkdir()
        (self.certs / SEAL_KEY).rename(state / SEAL_KEY)
        self.assert_finds(
            "sealing keys",
            "in the same folder as the state",
            *("--seal-keys", str(state / SEAL_KEY)),
            level="warning",
        )


class Tokens(DoctorTestCase):
    def test_the_token_itself(self) -> None:
        """The file has the token in place of its hash; it is not shown."""
        token, secret = new_token("billing")
        self.tokens.write_text(f"{token.name} {secret}\n")
        self.assert_finds("tokens", "expected NAME sha256:HASH")
        self.assertNotIn(secret, str(self.diagnose("--local")))

    def test_expired(self) -> None:
        """A token has expired."""
        self.tokens.write_text(new_token("a")[0].line + " expires=2020-01-01\n")
        self.assert_finds("tokens", "the token of a has expired", level="warning")

    def test_none(self) -> None:
        """The file is empty, so nobody can log in."""
        self.tokens.write_text("# none yet\n")
        self.assert_finds("tokens", "no request is accepted")

    def test_missing(self) -> None:
        """The file was not copied."""
        self.tokens.unlink()
        self.assert_finds("tokens", "No such file")

    def test_nobody_orders(self) -> None:
        """All tokens have the role read."""
        self.tokens.write_text(new_token("a", role=Role.READ)[0].line + "\n")
        self.assert_finds("tokens", "no token may order", level="warning")

    def test_writable(self) -> None:
        """All users can add a token."""
        self.tokens.chmod(0o666)
        self.assert_finds("tokens", "every user of this machine can write it")


class Client(DoctorTestCase):
    def token_file(self, text: str) -> Path:
        file = self.folder / "my-token"
        file.write_text(text)
        file.chmod(0o600)
        return file

    def test_line_of_the_server(self) -> None:
        """The client has the server's line in place of the token."""
        file = self.token_file(new_token("billing")[0].line)
        self.assert_finds("token", "is for the server's tokens file", "--token-file", str(file))

    def test_readable_token(self) -> None:
        """All users can read the client's token."""
        file = self.token_file(new_token("billing")[1])
        self.assertEqual(self.diagnose("--local", "--token-file", str(file), status=0), [])
        file.chmod(0o644)
        self.assert_finds("token", "can read it", "--token-file", str(file))

    def test_plain_http(self) -> None:
        """The URL of service B begins with http://."""
        self.assert_finds("profile", "expected an https:// URL", "--url", "http://localhost:8443")

    def test_misspelt_profile(self) -> None:
        """A key of the profile is misspelt."""
        config = self.folder / ".config"
        config.mkdir()
        (config / "rtprov.toml").write_text('[profiles.office]\nurll = "https://b"\n')
        self.assert_finds("profile", "profiles.office.urll: expected a text for one of url, ca")


class Variables(DoctorTestCase):
    def test_one_command(self) -> None:
        """The variables of single commands name what is looked at, before the common ones."""
        missing = str(self.folder / "missing")
        for name in (
            *("RTPROV_FRONTEND_CERTS", "RTPROV_WORKER_CERTS", "RTPROV_STUB_CERTS"),
            *("RTPROV_BROKER_CERTS", "RTPROV_FRONTEND_SEAL_KEYS", "RTPROV_WORKER_SEAL_KEYS"),
            "RTPROV_FRONTEND_TOKENS",
        ):
            common = "RTPROV_" + name.split("_", 2)[2]
            self.process.environ = {name: missing, common: str(self.folder)}
            found = json.loads(self.verb("doctor", "--local", "-o", "json", status=1))
            self.assertIn(missing, [each["about"] for each in found], name)

    def test_state(self) -> None:
        """The state of the broker's command is looked at."""
        self.process.environ = {"RTPROV_BROKER_STATE": str(self.tokens)}
        found = json.loads(self.verb("doctor", "--local", "-o", "json", status=1))
        self.assertIn("is not a folder", [each["message"] for each in found])

    def test_all_are_known(self) -> None:
        """An option reads the variables of all commands that have it, and no others."""
        for verb in (doctor, *key.commands.values(), *token.commands.values()):
            for each in verb.params:
                if isinstance(each.envvar, list):
                    option = each.envvar[-1].removeprefix("RTPROV_").lower().replace("_", "-")
                    roles = [role for role, options in OPTIONS_OF.items() if option in options]
                    known = [*(variable(option, role.lower()) for role in roles), variable(option)]
                    self.assertEqual(each.envvar, known)


class Surroundings(DoctorTestCase):
    def test_misspelt_variable(self) -> None:
        """A variable is misspelt, so no option reads it."""
        self.assert_finds(
            "environment", "no option reads", level="warning", RTPROV_BROKR="amqp://localhost"
        )

    def test_secret_in_a_variable(self) -> None:
        """A token is in the environment, where it does nothing but can be read."""
        self.assert_finds("environment", "visible in /proc", RTPROV_API_TOKEN="secret")

    def test_proxy(self) -> None:
        """Only a proxy leads outside."""
        self.assert_finds(
            "environment",
            "does not use this proxy",
            level="warning",
            HTTPS_PROXY="http://proxy:3128",
        )

    def test_pid_file_left(self) -> None:
        """The pid file of a process that was killed is left."""
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        (self.folder / "twistd.pid").write_text(str(gone.pid))
        self.assert_finds("pid file", "does not exist any more", level="warning")

    def test_no_process_id(self) -> None:
        """The pid file holds something else, or a number that no process can have."""
        for text in ("", "twistd", "-1", "0", "99999999999999999999", "9" * 5000):
            (self.folder / "twistd.pid").write_text(text)
            self.assert_finds("pid file", "holds no process id", level="warning")

    def test_state_is_a_file(self) -> None:
        """--state names a file."""
        (self.folder / "state").write_text("")
        self.assert_finds("state", "is not a folder")

    def test_writable_state(self) -> None:
        """All users can change the broker's state."""
        (self.folder / "state").mkdir()
        (self.folder / "state").chmod(0o777)
        self.assert_finds("state", "every user of this machine can write it")

    def test_full_disk(self) -> None:
        """The disk is nearly full."""
        self.assertEqual(list(free_space(Path("state"), 100 * 1024**3, 50 * 1024**3)), [])
        (found,) = free_space(Path("state"), 100 * 1024**3, 200 * 1024**2)
        self.assertIn("only 200 MiB are free", found.message)

    def test_few_files(self) -> None:
        """The limit of open files is that of an old shell. It is a real process's limit."""
        script = (
            "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (256, 256));"
            "from rtprov.cli.doctor.surroundings import open_files as f;"
            "print(*[each.message for each in f(*r.getrlimit(r.RLIMIT_NOFILE))])"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ),
        )
        self.assertIn("a process may open only 256 files", done.stdout)
        self.assertEqual(list[Finding](open_files(1024, 65536)), [])

"""Checks of the environment, of limits, and of files that a process leaves behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from rtprov.cli.doctor.finding import Check, Finding, open_to_others
from rtprov.cli.failures import VerbFailed
from rtprov.cli.profile import VARIABLES, Profile, read_profiles
from rtprov.security.files import is_there

WANTED_FILES = 4096
WANTED_FREE_BYTES = 1024**3
WANTED_FREE_SHARE = 0.05
MAX_PID = 2**31 - 1
_SECRETS = ("RTPROV_API_TOKEN", "RTPROV_TOKEN", "RTPROV_PASSWORD", "RTPROV_SEAL_KEY")


def environment(environ: Mapping[str, str], unknown: Mapping[str, str]) -> Iterator[Finding]:
    """Check the ``RTPROV_`` variables; `unknown` maps the unknown ones to the nearest name."""
    for name, nearest in unknown.items():
        check = Check("environment", name)
        if name in _SECRETS:
            yield check.error(
                "no such variable; a secret in the environment is visible in /proc",
                f"put it into a file, and name that, for example with {nearest}",
            )
        else:
            yield check.warning("no option reads this variable", f"did you mean {nearest}?")
    for name in ("HTTPS_PROXY", "https_proxy"):
        if environ.get(name):
            yield Check("environment", name).warning(
                "rtprov does not use this proxy: it connects directly",
                "allow the connection to service B, or run rtprov where it is allowed",
            )


def client(profile: Profile, config: Path) -> Iterator[Finding]:
    """Check the files of the profile with which the command line logs in."""
    check = Check("profile", str(config))
    try:
        read_profiles(config)
    except VerbFailed as error:
        yield check.refused(error, f"keys of a profile: {', '.join(VARIABLES)}")
    if profile.token_file is None:
        return
    try:
        profile.token()
    except VerbFailed as error:
        yield Check("token", str(profile.token_file)).refused(
            error, "the file holds the token that `rtprov token add` printed, and only that"
        )
        return
    yield from check.until_error(open_to_others(profile.token_file, "token"))


def open_files(soft: int, hard: int) -> Iterator[Finding]:
    """Check the limit of open files, RLIMIT_NOFILE; a process raises `soft` to `hard`."""
    if 0 <= hard < WANTED_FILES:
        yield Check("open files", f"{soft} of {hard}").warning(
            f"a process may open only {hard} files, one for each client or call",
            "raise the limit: LimitNOFILE=65536 in the unit, or nofile in limits.conf",
        )


def pid_file(file: Path) -> Iterator[Finding]:
    """Check that a pid file does not name a process that is gone, or another program's."""
    check = Check("pid file", str(file))
    yield from check.until_error(_pid_file(check, file))


def _pid_file(check: Check, file: Path) -> Iterator[Finding]:
    try:
        pid = int(file.read_text("ascii"))
    except FileNotFoundError:
        return
    except ValueError:
        pid = 0
    if not 0 < pid <= MAX_PID:
        yield check.warning("holds no process id", f"delete it if twistd does not run: rm {file}")
        return
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        yield check.warning(
            f"process {pid} does not exist any more",
            f"rm {file}; a supervisor needs no pid file: use --pidfile=",
        )
    except PermissionError:
        return  # it runs, as another user
    else:
        command = _command_of(pid)
        if command is not None and b"twist" not in command and b"rtprov" not in command:
            yield check.error(
                f"process {pid} is another program, so twistd refuses to start", f"rm {file}"
            )


def _command_of(pid: int) -> bytes | None:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None


def state_folder(folder: Path) -> Iterator[Finding]:
    """Check the folder of the embedded broker, if it exists."""
    check = Check("state", str(folder))
    yield from check.until_error(_state_folder(check, folder))


def _state_folder(check: Check, folder: Path) -> Iterator[Finding]:
    if not is_there(folder):
        return
    if not folder.is_dir():
        yield check.error("is not a folder", "name a folder with --state")
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield check.error("this user cannot write it", "chown it to the user that runs rtprov")
    if folder.stat().st_mode & 0o002:
        yield check.error("every user of this machine can write it", f"chmod o-rwx {folder}")
    yield from free_space(folder, *shutil.disk_usage(folder)[::2])


def free_space(folder: Path, total: int, free: int) -> Iterator[Finding]:
    """Check that the disk has at least 1 GiB and 5 % free; `total` and `free` are in bytes."""
    if free < WANTED_FREE_BYTES or free < total * WANTED_FREE_SHARE:
        yield Check("disk", str(folder)).warning(
            f"only {free / 1024**2:.0f} MiB are free; a full disk stops the broker",
            "make room, or move the state to a larger disk",
        )

"""The playbooks and the role in ``deploy/ansible``: ansible-lint, and their syntax."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from tests.support.ansible_hosts import ANSIBLE
from tests.support.deploy import require

NOT_PLAYBOOKS = {"inventory.example.yml", "inventory.yml"}


class Playbooks(SynchronousTestCase):
    def setUp(self) -> None:
        home = tempfile.mkdtemp(prefix="ansible-")
        self.addCleanup(shutil.rmtree, home)
        self.environment = {
            **os.environ,
            "ANSIBLE_HOME": home,
            "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
        }

    def run_in_folder(self, *command: str) -> None:
        """Check that a program ends with status 0."""
        ended = subprocess.run(
            command, cwd=ANSIBLE, env=self.environment, capture_output=True, text=True, check=False
        )
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)

    def test_lint(self) -> None:
        """ansible-lint finds nothing, with its strictest profile."""
        self.run_in_folder(require("ansible-lint"), "--strict")

    def test_syntax(self) -> None:
        """Ansible accepts each playbook, with the example of an inventory."""
        program = require("ansible-playbook")
        playbooks = sorted({path.name for path in ANSIBLE.glob("*.yml")} - NOT_PLAYBOOKS)
        self.assertIn("site.yml", playbooks)
        self.run_in_folder(
            program, "--inventory=inventory.example.yml", "--syntax-check", *playbooks
        )

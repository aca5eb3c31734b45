"""The names of metrics: the promised ones exist, and rules and board use no others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.metric_names import base_names, families, series_names
from tests.support.system_case import SystemTestCase

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus/rtprov.rules.yml"
RULE_TESTS = ROOT / "deploy/prometheus/rtprov.rules.test.yml"
BOARD = ROOT / "deploy/grafana/rtprov.json"
MONITORING = ROOT / "docs/monitoring.md"
RUNBOOK = ROOT / "docs/runbook.md"

PROMISED = {
    "rtprov_tasks_accepted_total": ["caller"],
    "rtprov_tasks_ended_total": ["state", "reason"],
    "rtprov_tasks": ["shard", "state"],
    "rtprov_task_oldest_seconds": ["shard"],
    "rtprov_eta_seconds": ["shard"],
    "rtprov_call_seconds": ["outcome"],
    "rtprov_task_seconds": ["outcome"],
    "rtprov_equipment_state": ["state"],
    "rtprov_call_slots": [],
    "rtprov_call_slots_used": [],
    "rtprov_worker_active": ["shard"],
    "rtprov_replay_seconds": ["shard"],
    "rtprov_broker_connected": [],
    "rtprov_confirm_seconds": [],
    "rtprov_status_seconds": [],
    "rtprov_parked_letters": [],
    "rtprov_http_requests_total": ["route", "status"],
    "rtprov_http_seconds": ["route"],
    "rtprov_auth_refused_total": ["why"],
    "rtprov_certificate_expiry_timestamp_seconds": ["name"],
    "rtprov_seal_key_unknown_total": [],
    "rtprov_reactor_lag_seconds": [],
    "rtprov_build_info": ["version"],
}
_NAME = re.compile(r"\b(?:rtprov|process)_[a-z_]+\b")


def alerts() -> list[str]:
    """Return the names of all alerts."""
    return re.findall(r"- alert: (\w+)", RULES.read_text("utf-8"))


class Names(SystemTestCase):
    def test_promised(self) -> None:
        """The metrics that operators were promised exist, with these labels."""
        labels = {
            f"{each.name}_total" if each.type == "counter" else each.name: list(
                getattr(each, "_labelnames", ())
            )
            for each in families(self.system)
        }
        self.assertEqual({name: labels.get(name) for name in PROMISED}, PROMISED)

    def test_documented(self) -> None:
        """docs/monitoring.md lists each metric, and no other one."""
        names = set(re.findall(r"^\| `(rtprov_[a-z_]+)", MONITORING.read_text("utf-8"), re.M))
        self.assertEqual(names, base_names(self.system))

    def test_rules(self) -> None:
        """The alerts' rules and their tests name only metrics that exist."""
        known = series_names(self.system)
        for file in (RULES, RULE_TESTS):
            self.assertEqual(set(_NAME.findall(_without_comments(file))) - known, set())

    def test_board(self) -> None:
        """The panels of the board name only metrics that exist. Each panel has a query."""
        known, panels = series_names(self.system), list(_panels(json.loads(BOARD.read_text())))
        self.assertGreater(len(panels), 20)
        for panel in panels:
            used = {name for each in panel["targets"] for name in _NAME.findall(each["expr"])}
            self.assertTrue(used, panel["title"])
            self.assertEqual(used - known, set(), panel["title"])

    def test_run_book(self) -> None:
        """Each alert has a section in the run book, to which it links, and two tests."""
        sections = re.findall(r"^## (\w+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
        rules, tests = RULES.read_text("utf-8"), RULE_TESTS.read_text("utf-8")
        self.assertEqual(sections, alerts())
        for alert in alerts():
            self.assertIn(f"runbook: docs/runbook.md#{alert.lower()}\n", rules)
            for name in ("fires", "stays quiet"):
                self.assertIn(f"- name: {alert} {name}\n", tests)


def _without_comments(file: Path) -> str:
    lines = file.read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def _panels(board: Any) -> Iterator[Any]:
    """Yield the panels of the board that show something."""
    for panel in board["panels"]:
        if panel["type"] != "row":
            yield panel

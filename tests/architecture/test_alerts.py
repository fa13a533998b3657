"""What is scraped and which rules judge it: every service, only metrics that exist, a page and a test for each."""

import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.expressions import ALERT, OPS, Expression, of_dashboards, of_rules, rules
from e2e.local_prometheus import MISSING, is_installed
from e2e.metrics import declared
from quantum_common.domain import SERVICE_PORTS

ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
NOT_OURS = {
    "up", "scrape_duration_seconds", "ALERTS", "process_resident_memory_bytes", "process_cpu_seconds_total",
    "process_start_time_seconds",
}  # fmt: skip
"""Prometheus makes these itself, or the client library does for every process."""
NAME = re.compile(r"\b(?:quantum[a-z0-9_:]+|up\b|ALERTS\b|process_\w+|scrape_\w+)")
SECTIONS = ["What it costs", "Look", "Mend", "Verify"]
needs_prometheus = pytest.mark.skipif(not is_installed(), reason=MISSING)


def named_in(expression: Expression) -> set[str]:
    """Metrics of an expression; text in quotes is no metric."""
    return set(NAME.findall(re.sub(r'"[^"]*"', "", expression.text)))


def exists(name: str, known: set[str]) -> bool:
    return name in known or re.sub(r"_(bucket|count|sum)$", "", name) in known


def scraped(job: str) -> dict[str, list[str]]:
    config = yaml.safe_load((OPS / "prometheus/prometheus.yml").read_text())
    rows = next(each["static_configs"] for each in config["scrape_configs"] if each["job_name"] == job)
    return {row["labels"]["service"]: row["targets"] for row in rows}


def test_every_service_is_scraped_under_its_name_and_port() -> None:
    ports = {**SERVICE_PORTS, "monitor-svc": 8050}
    targets = scraped("fleet") | scraped("trainer")
    assert targets == {service: [f"{service}:{port}"] for service, port in ports.items()}
    assert list(scraped("trainer")) == ["trainer-svc"]  # not started unless it is asked for


def test_there_are_ten_alerts_and_each_has_severity_words_and_its_page() -> None:
    assert len(ALERTS) == 10
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("page", "warn"), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, name
        assert rule["annotations"]["runbook"] == f"ops/runbooks/{name}.md"
    pages = {path.stem: path.read_text() for path in (OPS / "runbooks").iterdir()}
    assert set(pages) == set(ALERTS)
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n"), name
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS, name


def test_every_alert_compares_a_quantity_that_is_recorded_right_before_it() -> None:
    listed = rules()
    for before, rule in pairwise(listed):
        if "alert" in rule:
            compared = ALERT.fullmatch(rule["expr"])
            assert compared, rule["alert"]
            assert compared[1] == before.get("record"), rule["alert"]


def test_every_metric_that_a_rule_or_panel_names_exists_in_the_code() -> None:
    known = set(declared()) | RECORDED | NOT_OURS
    asked = [*of_rules(), *of_dashboards()]
    assert [(each.where, name) for each in asked for name in named_in(each) if not exists(name, known)] == []
    assert all(named_in(each) for each in asked)


def test_every_metric_that_a_runbook_names_exists_in_the_code() -> None:
    known = set(declared()) | RECORDED
    for page in (OPS / "runbooks").iterdir():
        names = re.findall(r"\bquantum[_:][a-z0-9_:]*[a-z0-9]", page.read_text())
        assert [name for name in names if not exists(name, known)] == [], page.name


def test_every_link_of_a_runbook_leads_somewhere() -> None:
    for page in (OPS / "runbooks").iterdir():
        links = re.findall(r"\]\(([^)]+)\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == [], page.name


def cases(name: str) -> list[list[Any]]:
    """What is expected at each time of each test of an alert."""
    tests = yaml.safe_load((OPS / "prometheus/alerts.test.yml").read_text())["tests"]
    found = [[case["exp_alerts"] for case in test["alert_rule_test"]] for test in tests if test["name"] == name]
    assert all(case["alertname"] == test["name"] for test in tests for case in test["alert_rule_test"])
    return found


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_tested_in_peace_firing_and_resolved(name: str) -> None:
    assert cases(name)
    for expected in cases(name):
        assert expected[0] == [], "in peace"
        assert any(expected), "firing"
        assert expected[-1] == [], "resolved"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], cwd=OPS / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )


@needs_prometheus
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    result = promtool(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_prometheus
def test_promtool_notices_an_alert_that_never_fires(tmp_path: Path) -> None:
    text = (OPS / "prometheus/alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(text.replace("quantum:dead_letters > 0", "quantum:dead_letters > 1000"))
    tests = tmp_path / "alerts.test.yml"
    tests.write_text((OPS / "prometheus/alerts.test.yml").read_text())
    assert promtool("test", "rules", str(tests)).returncode == 1

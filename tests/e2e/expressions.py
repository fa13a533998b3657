"""What rules and dashboards ask Prometheus for, with variables filled in as Grafana does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

OPS = Path(__file__).parents[2] / "ops"
RULES = Path("prometheus/alerts.yml")
ALERT = re.compile(r"(quantum:[a-z0-9_:]+) [<>]=? [\d.]+")
"""An alert compares a recorded quantity with a number: so the quantity can be asked for on its own."""
LABEL_VALUES = re.compile(r"label_values\((.+), \w+\)")


class Expression(NamedTuple):
    """`where`: which rule, or which panel of which dashboard."""

    where: str
    text: str


def rules(ops: Path = OPS) -> list[dict[str, Any]]:
    """Recording and alert rules, in their order."""
    groups = yaml.safe_load((ops / RULES).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboards(ops: Path = OPS) -> dict[str, dict[str, Any]]:
    """By file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted((ops / "grafana/dashboards").glob("*.json"))}


def of_rules(ops: Path = OPS) -> Iterator[Expression]:
    """A recording rule's expression, and the quantity that an alert compares. ValueError for other alerts."""
    for rule in rules(ops):
        if "record" in rule:
            yield Expression(f"rule {rule['record']}", rule["expr"])
        elif compared := ALERT.fullmatch(rule["expr"]):
            yield Expression(f"alert {rule['alert']}", compared[1])
        else:
            raise ValueError(f"{rule['alert']} does not compare one recorded quantity with a number: {rule['expr']}")


def of_dashboards(ops: Path = OPS) -> Iterator[Expression]:
    """Of each panel every target, and what each variable lists its values from."""
    interval_s = scrape_interval_s(ops)
    for name, dashboard in dashboards(ops).items():
        variables = dashboard["templating"]["list"]
        filled = {each["name"]: each["allValue"] for each in variables} | built_in(dashboard, interval_s)
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                where = f"{name}: {panel['title']} {target['refId']}"
                yield Expression(where, fill(target["expr"], filled))
        for each in variables:
            listed = LABEL_VALUES.fullmatch(each["definition"])
            assert listed, each["definition"]
            yield Expression(f"{name}: variable {each['name']}", listed[1])


def scrape_interval_s(ops: Path = OPS) -> int:
    """As the datasource tells Grafana."""
    source = yaml.safe_load((ops / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    return int(source["jsonData"]["timeInterval"].removesuffix("s"))


def built_in(dashboard: Mapping[str, Any], scrape_s: int) -> dict[str, str]:
    """Grafana's own variables for the default range: a step is at least a scrape, a rate covers at least four."""
    unit_s = {"m": 60, "h": 3600}
    range_ = dashboard["time"]["from"].removeprefix("now-")
    range_s = int(range_[:-1]) * unit_s[range_[-1]]
    step_s = max(scrape_s, range_s // 1000)
    rate_s = max(step_s + scrape_s, 4 * scrape_s)
    return {"__range": f"{range_s}s", "__interval": f"{step_s}s", "__rate_interval": f"{rate_s}s"}


def fill(text: str, variables: Mapping[str, str]) -> str:
    """KeyError for a variable that the dashboard does not have."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: variables[found[1] or found[2]], text)

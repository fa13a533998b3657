"""Does a real Prometheus have data for every rule and every panel? `python -m e2e.prometheus_check --prometheus URL`

Ends with 0 when every target is up, every rule is evaluated and every expression returns a number, else with 1 and a
line for each that does not.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from e2e.expressions import OPS, Expression, of_dashboards, of_rules, rules

OPTIONAL_JOBS = {"trainer"}
"""Not started unless it is asked for."""
ASK_AGAIN_S = 2.0


class Finding(NamedTuple):
    where: str
    problem: str


class Report(NamedTuple):
    targets: int
    rules: int
    expressions: int
    series: int
    firing: tuple[str, ...]
    """Alerts that fire: no finding, since they may be right."""
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        head = f"{self.targets} targets, {self.rules} rules, {self.expressions} expressions with {self.series} series"
        alerts = f"firing: {', '.join(self.firing) or 'nothing'}"
        return "\n".join([f"{head}; {alerts}", *(f"  {where}: {problem}" for where, problem in self.findings)])


def check(url: str, ops: Path = OPS) -> Report:
    """One look at everything. Raises httpx.HTTPError when Prometheus cannot be asked."""
    with httpx.Client(base_url=url, timeout=10) as prometheus:
        targets = [
            target
            for target in _get(prometheus, "targets", state="active")["activeTargets"]
            if target["labels"]["job"] not in OPTIONAL_JOBS
        ]
        loaded = [rule for group in _get(prometheus, "rules")["groups"] for rule in group["rules"]]
        asked = [*of_rules(ops), *of_dashboards(ops)]
        answers = [_ask(prometheus, expression) for expression in asked]
    findings = [*_targets(targets), *_rules(loaded, ops)]
    findings += [
        Finding(expression.where, f"{problem}: {expression.text}")
        for expression, (_, problem) in zip(asked, answers, strict=True)
        if problem
    ]
    series = sum(count for count, _ in answers)
    return Report(len(targets), len(loaded), len(asked), series, _firing(loaded), tuple(findings))


def firing(url: str) -> tuple[str, ...]:
    """Names of the alerts that fire now."""
    with httpx.Client(base_url=url, timeout=10) as prometheus:
        return _firing([rule for group in _get(prometheus, "rules")["groups"] for rule in group["rules"]])


def _firing(loaded: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(sorted({rule["name"] for rule in loaded if rule.get("state") == "firing"}))


def _get(prometheus: httpx.Client, path: str, **params: str) -> Any:
    """`data` of an answer, or the text of an error."""
    answer = prometheus.get(f"/api/v1/{path}", params=params).json()
    return answer["data"] if answer["status"] == "success" else str(answer["error"])


def check_within(url: str, within_s: float, ops: Path = OPS) -> Report:
    """Ask again until nothing is wrong, for at most `within_s`: a rate needs two scrapes, a histogram an event."""
    deadline = time.monotonic() + within_s
    while True:
        report = check(url, ops)
        if not report.findings or time.monotonic() > deadline:
            return report
        time.sleep(ASK_AGAIN_S)


def _targets(targets: list[dict[str, Any]]) -> list[Finding]:
    """Those that are not up."""
    return [
        Finding(f"target {target['labels']['service']}", f"{target['health']} {target['lastError']}")
        for target in targets
        if target["health"] != "up"
    ]


def _rules(loaded: list[dict[str, Any]], ops: Path) -> list[Finding]:
    """Those that are not loaded, or whose evaluation failed."""
    wanted = {rule.get("record") or rule["alert"] for rule in rules(ops)}
    missing = wanted - {rule["name"] for rule in loaded}
    bad = [rule for rule in loaded if rule["health"] != "ok"]
    return [
        *(Finding(f"rule {name}", "not loaded") for name in sorted(missing)),
        *(Finding(f"rule {rule['name']}", f"{rule['health']} {rule.get('lastError', '')}") for rule in bad),
    ]


def _ask(prometheus: httpx.Client, expression: Expression) -> tuple[int, str]:
    """How many series the expression returns now, and what is wrong."""
    answer = _get(prometheus, "query", query=expression.text)
    if isinstance(answer, str):
        return 0, answer
    values = [float(row["value"][1]) for row in answer["result"]]
    if not values:
        return 0, "no data"
    return len(values), "only NaN" if all(map(math.isnan, values)) else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", required=True, metavar="URL", help="such as http://127.0.0.1:9090")
    parser.add_argument("--ops", type=Path, default=OPS, metavar="DIR", help="rules and dashboards; default: ours")
    parser.add_argument("--within", type=float, default=60, metavar="S", help="ask again for so long; default 60")
    options = parser.parse_args()
    report = check_within(options.prometheus, options.within, options.ops)
    print(report)
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())

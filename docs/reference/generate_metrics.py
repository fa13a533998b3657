"""Write docs/reference/metrics.md from what the code declares: `make docs`. A test holds the page against it."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from quantum_cli.fleet import FLEET, TRAINER, VENUE

HEAD = """# Metrics

Every service tells them on `/metrics`; Prometheus adds the label `service`, and those of the process (`process_*`).
Questions that they answer, alerts and dashboards: [observability](../guides/observability.md).
"""
SHARED = {
    "Every service": "quantum_common.service.metrics",
    "Every service that reads streams": "quantum_common.bus.metrics",
    "Every agent": "quantum_common.agent.metrics",
}


def rows(module: str) -> list[str]:
    """A Markdown table row per metric that a module declares, in its order."""
    lines = []
    for metric in vars(importlib.import_module(module)).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(metric._labelnames)
            lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return lines


def render() -> str:
    """The whole page."""
    parts = [HEAD, *(section(title, module) for title, module in SHARED.items())]
    for member in (*FLEET, TRAINER, VENUE):
        if find_spec(f"{member.module}.metrics"):
            parts.append(section(f"{member.name} (port {member.port})", f"{member.module}.metrics"))
    return "\n".join(parts)


def section(title: str, module: str) -> str:
    return "\n".join(
        [f"## {title}", "", "| metric | type | labels | meaning |", "|---|---|---|---|", *rows(module), ""]
    )


if __name__ == "__main__":
    Path(__file__).with_name("metrics.md").write_text(render())

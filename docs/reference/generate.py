"""Write docs/reference/settings.md from the settings classes: `make docs`. A test holds the page against them."""

from __future__ import annotations

import importlib
from pathlib import Path

from pydantic import SecretStr

from quantum_cli.fleet import FLEET, TRAINER, VENUE
from quantum_common.service import FleetSettings

HEAD = """# Settings

Environment variables, read once at start. A `QT_` name that stands on none of these lists stops start-up. `quantum up`
sets addresses, folders, symbols and the clock itself; everything else is yours to export before it.
"""


def settings_of(service: str) -> type[FleetSettings]:
    module = importlib.import_module(f"{service.replace('-', '_')}.settings")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, FleetSettings) and value is not FleetSettings
    )


def rows(settings: type[FleetSettings], hidden: frozenset[str] = frozenset()) -> list[str]:
    """A Markdown table row per variable: name, default, meaning."""
    lines = []
    for name, field in settings.model_fields.items():
        if name in hidden:
            continue
        variable = str(field.validation_alias or f"QT_{name.upper()}")
        default = field.get_default()
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if isinstance(default, tuple):
            default = ",".join(map(str, default))
        shown = "" if default is None else f"`{default}`"
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{variable}` | {shown} | {meaning} |")
    return lines


def render() -> str:
    """The whole page."""
    shared = frozenset(FleetSettings.model_fields)
    parts = [HEAD, section("Every service", rows(FleetSettings))]
    for member in (*FLEET, TRAINER, VENUE):
        own = rows(settings_of(member.name), shared)
        if own:
            parts.append(section(f"{member.name} (port {member.port})", own))
    return "\n".join(parts)


def section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", "| variable | default | meaning |", "|---|---|---|", *lines, ""])


if __name__ == "__main__":
    Path(__file__).with_name("settings.md").write_text(render())

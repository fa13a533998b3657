"""Which metrics the code declares, by name, and where."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("libs", "services", "cli") for path in (ROOT / folder).glob("**/src/**/*.py"))
DECLARATION = re.compile(r"\b(?:Counter|Gauge|Histogram|Summary)\(\s*\"(\w+)\"")


def declared() -> dict[str, Path]:
    """Name as it stands in the code → file."""
    return {name: path for path in SOURCES for name in DECLARATION.findall(path.read_text())}

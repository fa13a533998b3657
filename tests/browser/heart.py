"""A service of the fleet that only lives: the kit's process and routes, no loops. `python -m browser.heart NAME`."""

from __future__ import annotations

import sys
from typing import Any

from quantum_common.service import FleetSettings, Service, run

MODEL = {"agent": "xgb", "version": "20260101-abcdef0123", "quality": "unproven", "labels_to_ms": 1_699_948_800_000}


def made(name: str) -> Service:
    settings: FleetSettings = type("Settings", (FleetSettings,), {"service": name})()
    info: dict[str, Any] = {"model": MODEL, "problem": None} if name.endswith("-agent") else {}
    return Service(settings, {}, info=lambda: info)


if __name__ == "__main__":
    run(lambda: made(sys.argv[1]))

"""What a service is before it runs: settings, loops, routes; and how its loops show that they turn."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter

from quantum_common.service.settings import FleetSettings
from quantum_common.service.stop import Stop

STUCK_AFTER_S = 15.0

Loop = Callable[[Stop, Callable[[], None]], Awaitable[None]]
"""A loop gets the wish to stop and a `beat` to call at every turn (at least every few seconds)."""


class Progress:
    """When each loop last turned."""

    def __init__(self, stuck_after_s: float = STUCK_AFTER_S) -> None:
        self._stuck_after_s = stuck_after_s
        self._last: dict[str, float] = {}

    def beat(self, loop: str) -> None:
        self._last[loop] = time.monotonic()

    def stuck(self) -> list[str]:
        """Names of loops that have not turned for `stuck_after_s`."""
        now = time.monotonic()
        return [name for name, last in self._last.items() if now - last > self._stuck_after_s]


def _always_ready() -> list[str]:
    return []


def _no_info() -> dict[str, Any]:
    return {}


@dataclass
class Service:
    """What `build(settings)` returns: nothing in it is connected or running yet."""

    settings: FleetSettings
    loops: Mapping[str, Loop]
    routers: Sequence[APIRouter] = ()
    not_ready: Callable[[], list[str]] = _always_ready
    """Reasons why no useful work is possible; empty = ready."""
    info: Callable[[], dict[str, Any]] = _no_info
    """Extra fields of /info."""
    closing: Sequence[Callable[[], Awaitable[None]]] = ()
    """Awaited after the loops ended, in order."""
    progress: Progress = field(default_factory=Progress)

"""What a service is before it runs: settings, loops, routes; and how its loops show that they turn."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter

from quantum_common.bus.consumer import Consumer
from quantum_common.bus.port import Bus
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

    def age_s(self, loop: str) -> float:
        """Seconds since a loop last turned; NaN before it began."""
        return time.monotonic() - self._last.get(loop, math.nan)


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
    bus: Bus | None = None
    """Its server's settings are checked before the loops start."""
    consumers: Sequence[Consumer] = ()
    """Their trouble with the server is among the reasons of `unready`."""
    not_ready: Callable[[], list[str]] = _always_ready
    """Reasons of the service's own why no useful work is possible; empty = ready."""
    info: Callable[[], dict[str, Any]] = _no_info
    """Extra fields of /info."""
    closing: Sequence[Callable[[], Awaitable[None]]] = ()
    """Awaited after the loops ended, in order."""
    progress: Progress = field(default_factory=Progress)
    bus_problem: str | None = None
    """Why the server has not been checked yet."""

    def unready(self) -> list[str]:
        """All reasons, the server's first; empty = ready."""
        problems = [self.bus_problem, *(consumer.problem for consumer in self.consumers)]
        return [*dict.fromkeys(problem for problem in problems if problem), *self.not_ready()]

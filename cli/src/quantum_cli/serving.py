"""Telling running fleets about released models, and asking their agents which versions they serve."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from quantum_cli.running import STATE_FOLDERS, choose_fleet, models_of, running_below
from quantum_common import __version__
from quantum_common.bus import BusUnavailable, RedisBus
from quantum_common.contracts import Look, Producer
from quantum_common.domain import AGENT_SERVICES, SERVICE_PORTS
from quantum_common.service import wake

SERVED_WITHIN_S = 30.0
ASK_EVERY_S = 0.2
PRODUCER = Producer("quantum", "deploy", __version__)


@dataclass(frozen=True, slots=True)
class ServingFleet:
    """Where the agents of a fleet can be told and asked."""

    redis_url: str
    port_offset: int = 0

    async def look(self) -> None:
        """Raises BusUnavailable."""
        bus = RedisBus.connect(self.redis_url)
        try:
            await wake(bus, Look("models"), PRODUCER)
        finally:
            await bus.close()

    def served(self, client: httpx.Client, agent: str) -> str | None:
        """The version that an agent serves and what is wrong with a newer one; None when nobody answers."""
        port = SERVICE_PORTS[AGENT_SERVICES[agent]] + self.port_offset
        try:
            info = client.get(f"http://127.0.0.1:{port}/info").json()
        except (httpx.HTTPError, ValueError):
            return None
        version = info["model"]["version"] if info.get("model") else "nothing"
        return f"{version} ({info['problem']})" if info.get("problem") else str(version)


def serving_fleets(models_dir: Path, state_dir: Path | None) -> list[ServingFleet]:
    """A named folder's fleet, else the exported QT_REDIS_URL's, else those below ./state that use these models."""
    if state_dir is not None:
        _, fleet = choose_fleet(state_dir)
        return [ServingFleet(fleet.redis_url, fleet.port_offset)]
    if url := os.environ.get("QT_REDIS_URL"):
        return [ServingFleet(url, int(os.environ.get("QT_PORT_OFFSET", "0")))]
    return [
        ServingFleet(fleet.redis_url, fleet.port_offset)
        for folder, fleet in running_below(STATE_FOLDERS)
        if models_of(folder).resolve() == models_dir.resolve()
    ]


def reload(fleets: Sequence[ServingFleet]) -> str:
    """Wake every instance by the control stream; the pointers stay the truth where it cannot be reached."""
    problems = []
    for fleet in fleets:
        try:
            asyncio.run(fleet.look())
        except BusUnavailable as error:
            problems.append(error.reason)
    if problems:
        return f"a fleet was not told and finds the new pointers when it is idle: {'; '.join(problems)}"
    return "running agents were told" if fleets else "no fleet runs"


def refusals(
    fleets: Sequence[ServingFleet], expected: Mapping[str, str], within_s: float = SERVED_WITHIN_S
) -> list[str]:
    """Agents that answer and do not serve the expected version in time. One that does not run refuses nothing."""
    deadline = time.monotonic() + within_s
    waiting = [(fleet, agent) for fleet in fleets for agent in expected if agent in AGENT_SERVICES]
    answers: dict[str, str] = {}
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while True:
            left = []
            for fleet, agent in waiting:
                served = fleet.served(client, agent)
                if served not in (None, expected[agent]):
                    answers[agent] = str(served)
                    left.append((fleet, agent))
            waiting = left
            if not waiting or time.monotonic() > deadline:
                return [f"{agent} serves {answers[agent]} instead of {expected[agent]}" for _, agent in waiting]
            time.sleep(ASK_EVERY_S)

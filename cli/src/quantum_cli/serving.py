"""Telling running fleets about released models, and asking their agents which versions they serve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from quantum_cli.reach import exported_server, find_server, local_fleet
from quantum_cli.running import STATE_FOLDERS, models_of, running_below
from quantum_common import __version__
from quantum_common.bus import BusUnavailable, RedisBus
from quantum_common.contracts import Look, Producer
from quantum_common.domain import AGENT_SERVICES
from quantum_common.service import FleetSettings, wake

SERVED_WITHIN_S = 30.0
ASK_EVERY_S = 0.2
TELL_WITHIN_S = 5.0
PRODUCER = Producer("quantum", "models", __version__)


def serving_fleets(models_dir: Path, state_dir: Path | None) -> list[FleetSettings]:
    """A named folder's fleet, else the exported server's, else those below ./state that use these models."""
    if state_dir is not None:
        return [find_server(state_dir)]
    if exported := exported_server():
        return [exported]
    return [
        local_fleet(folder, fleet).settings
        for folder, fleet in running_below(STATE_FOLDERS)
        if models_of(folder).resolve() == models_dir.resolve()
    ]


def tell(fleets: Sequence[FleetSettings]) -> list[str]:
    """Wake every instance by the control stream; why each fleet that was not told could not be.

    The pointers stay the truth: those that were not told find them moved when they are idle.
    """
    return [problem for fleet in fleets if (problem := asyncio.run(_tell(fleet)))]


async def _tell(fleet: FleetSettings) -> str:
    try:
        bus = RedisBus.connect(fleet.redis_url.get_secret_value())
    except ValueError as error:
        return f"QT_REDIS_URL: {error}"
    try:
        await asyncio.wait_for(wake(bus, Look("models"), PRODUCER), TELL_WITHIN_S)
    except BusUnavailable as error:
        return error.reason
    except TimeoutError:
        return f"the server does not answer within {TELL_WITHIN_S:g} s"
    finally:
        await bus.close()
    return ""


def reload(fleets: Sequence[FleetSettings]) -> str:
    """Tell the fleets; in words what came of it."""
    if problems := tell(fleets):
        return f"a fleet was not told and finds the new pointers when it is idle: {'; '.join(problems)}"
    return "running agents were told" if fleets else "no fleet runs"


def served(client: httpx.Client, fleet: FleetSettings, agent: str) -> str | None:
    """The version that an agent serves and what is wrong with a newer one; None when nobody answers."""
    try:
        info = client.get(f"{fleet.url_of(AGENT_SERVICES[agent])}/info").json()
    except (httpx.HTTPError, ValueError):
        return None
    version = info["model"]["version"] if info.get("model") else "nothing"
    return f"{version} ({info['problem']})" if info.get("problem") else str(version)


def refusals(
    fleets: Sequence[FleetSettings], expected: Mapping[str, str], within_s: float = SERVED_WITHIN_S
) -> list[str]:
    """Agents that answer and do not serve the expected version in time. One that does not run refuses nothing."""
    deadline = time.monotonic() + within_s
    waiting = [(fleet, agent) for fleet in fleets for agent in expected if agent in AGENT_SERVICES]
    answers: dict[str, str] = {}
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while True:
            left = []
            for fleet, agent in waiting:
                version = served(client, fleet, agent)
                if version not in (None, expected[agent]):
                    answers[agent] = str(version)
                    left.append((fleet, agent))
            waiting = left
            if not waiting or time.monotonic() > deadline:
                return [f"{agent} serves {answers[agent]} instead of {expected[agent]}" for _, agent in waiting]
            time.sleep(ASK_EVERY_S)

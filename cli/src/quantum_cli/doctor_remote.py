"""Checks of `quantum doctor` that ask someone: ports, the server, the venue."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from quantum_cli.doctor import Finding, Level
from quantum_cli.fleet import SERVICES, VENUE, port_holders
from quantum_cli.reach import ASK_WITHIN_S, Reach, ask_all
from quantum_common import QuantumError
from quantum_common.bus import BusUnavailable, RedisBus
from quantum_common.bus.server_check import WrongServer, check_server
from quantum_common.service.settings import validated

MOST_SKEW_MS = 1_000
LITTLE_SKEW_MS = 250
TIME_PATH = "/fapi/v1/time"


async def answering(reach: Reach) -> set[str]:
    """Services of this fleet that answer under their own name."""
    names = [member.name for member in SERVICES]
    answers = await ask_all(reach, {name: (name, "/info") for name in names})
    return {name for name in names if isinstance(body := answers[name].body, dict) and body.get("service") == name}


def ports(reach: Reach, ours: set[str]) -> Iterator[Finding]:
    """Free, or held by the fleet itself. Services that have machines of their own need none here."""
    if not _here(reach):
        yield Finding("ports", "ok", f"services answer elsewhere ({reach.settings.service_url}); {len(ours)} do")
        return
    holders = port_holders(reach.settings.port_offset)
    strangers = {port: (name, by) for port, (name, by) in holders.items() if name not in ours}
    for port, (name, by) in sorted(strangers.items()):
        fix = "stop it, or move the whole fleet with --port-offset N (services by hand: QT_PORT_OFFSET)"
        yield Finding("ports", "fail", f"{port} of {name} is held by {by}, and no {name} answers there", fix)
    if not strangers:
        yield Finding("ports", "ok", f"{len(holders)} held by the fleet, the other {len(SERVICES) - len(holders)} free")


def _here(reach: Reach) -> bool:
    return urlsplit(reach.url_of(VENUE.name)).hostname in ("127.0.0.1", "localhost", "::1")


async def server(reach: Reach, running: bool) -> list[Finding]:
    """Reachable, new enough, and set so that it keeps what is written."""
    url = reach.settings.redis_url.get_secret_value()
    place = url.rpartition("@")[2].removeprefix("redis://")
    try:
        bus = RedisBus.connect(url)
    except ValueError as error:
        return [Finding("server", "fail", f"QT_REDIS_URL: {error}", "docs/reference/settings.md")]
    try:
        facts = await asyncio.wait_for(bus.server_facts(), 2 * ASK_WITHIN_S)
        untold = check_server(facts)
    except (BusUnavailable, TimeoutError) as error:
        if running or "QT_REDIS_URL" in os.environ or reach.settings.secrets_dir:
            return [Finding("server", "fail", f"{place}: {error!r}", "start it, or correct QT_REDIS_URL")]
        return [Finding("server", "ok", f"none at {place}, none needed: quantum up brings its own")]
    except WrongServer as error:
        return [Finding("server", "fail", str(error), "docs/guides/streams.md")]
    finally:
        await bus.close()
    level: Level = "warn" if untold else "ok"
    fix = f"this user is not told {', '.join(untold)}: compare with docs/guides/streams.md" if untold else ""
    return [Finding("server", level, f"version {facts.get('version', 'unknown')} at {place}", fix)]


async def clock(reach: Reach) -> list[Finding]:
    """Orders carry a time, and the venue refuses those of a clock that is off."""
    base = _venue_url(reach)
    if base is None:
        return [Finding("clock", "ok", "not compared here: executor-svc compares it with its venue")]
    try:
        async with httpx.AsyncClient(timeout=ASK_WITHIN_S, trust_env=False) as client:
            before = time.time()
            answer = await client.get(base + TIME_PATH)
            skew_ms = round((before + time.time()) / 2 * 1000 - answer.json()["serverTime"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return [Finding("clock", "ok", f"not compared: no venue answers at {base}")]
    found = f"{skew_ms:+d} ms against {base}"
    level: Level = "ok" if abs(skew_ms) <= LITTLE_SKEW_MS else "warn" if abs(skew_ms) <= MOST_SKEW_MS else "fail"
    return [Finding("clock", level, found, "" if level == "ok" else "let NTP set the clock: timedatectl set-ntp true")]


def _venue_url(reach: Reach) -> str | None:
    """Where executor-svc sends orders; the paper venue of the fleet by default."""
    try:
        from executor_svc.settings import ExecutorSettings

        executor = validated(ExecutorSettings)
    except (ModuleNotFoundError, QuantumError):  # the operator's image; or told by the check of the settings
        return None
    if executor.mode == "paper":
        return executor.venue_url or reach.url_of(VENUE.name)
    return executor.venue_url or ("https://fapi.binance.com" if executor.exchange == "binanceusdm" else None)

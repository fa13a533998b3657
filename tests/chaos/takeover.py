"""How long it takes until the other instance works, for every service under a lease.

The working instance is killed; then the one that took over is paused for longer than its lease; then the next is asked
to stop. Measured from the signal to the first event under another process's lease, in the middle of a bar that stands
still until then. The run must end like one that was left in peace, whatever the paused one does on waking.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.table import Table

from chaos.faults import LEASED, QUIET_BARS
from chaos.fleet import LEASES, STREAMS, DisturbedFleet
from quantum_cli.supervisor import Child

HOWS = ("kill", "pause", "stop")
WRITES = {
    "feature-svc": "features",
    "meta-svc": "decisions",
    "governer-svc": "allocations",
    "executor-svc": "executions",
}
LIMIT_S = {"executor-svc": 6.0}
OTHERS_LIMIT_S = 3.0
"""The executor outwaits the venue's receive window."""
EXPECTED = len(LEASED) * len(HOWS)
PAUSE_S = 6.5
FIRST_BAR, EVERY_BARS = 3, 2
GIVES_UP_S = 30.0


class Takeover(NamedTuple):
    service: str
    how: str
    took_s: float

    @property
    def limit_s(self) -> float:
        return LIMIT_S.get(self.service, OTHERS_LIMIT_S)

    @property
    def late(self) -> bool:
        return self.took_s > self.limit_s


class TakeoverFleet(DisturbedFleet):
    """Carries out takeovers one after the other instead of a schedule of faults."""

    speed = "5400"
    """One and a half 1h bars a second, so that the range lasts for all of them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.takeovers: list[Takeover] = []

    async def _disturb(self, redis_url: str) -> None:
        bar = FIRST_BAR
        async with Redis.from_url(redis_url) as redis:
            for service in LEASED:
                for how in HOWS:
                    while self._settled < bar:  # noqa: ASYNC110 - the conductor tells nobody
                        await asyncio.sleep(0.01)
                    if self._settled > len(self._times) - QUIET_BARS:
                        return
                    self.takeovers.append(Takeover(service, how, await self._take_over(service, how, redis)))
                    bar = self._settled + EVERY_BARS

    async def _take_over(self, service: str, how: str, redis: Redis) -> float:
        """Seconds from the signal to the successor's first event."""
        worker = self._child(await self.meant(service, redis))
        standby = self._child(await self.meant(f"{service}-2", redis))
        await self._stands_by(standby)
        owner, began_ms = await redis.hget(LEASES[service], "owner"), time.time() * 1000
        assert worker.process is not None
        waking = asyncio.create_task(self._signal(worker, how))
        wrote_ms = await self._first_of_another(service, owner, redis)
        await waking
        self.injected.counts[{"kill": "kills", "pause": "pauses", "stop": "redeploys"}[how]] += 1
        await self._stands_by(worker)
        return (wrote_ms - began_ms) / 1000

    async def _signal(self, worker: Child, how: str) -> None:
        assert worker.process is not None
        match how:
            case "kill":
                worker.process.kill()
            case "pause":
                worker.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(PAUSE_S)
                worker.process.send_signal(signal.SIGCONT)
            case "stop":
                await self._supervisor.restart(worker)

    async def _stands_by(self, child: Child) -> None:
        """It answers that it is ready, so it has asked for the lease."""
        async with asyncio.timeout(GIVES_UP_S):
            while child.process is None or child.process.returncode is not None or not await child.ready():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)

    async def _first_of_another(self, service: str, owner: bytes | None, redis: Redis) -> float:
        """Wall time, ms, at which the server took the first event after the lease had another owner."""
        stream, deadline, since = STREAMS[WRITES[service]], time.monotonic() + GIVES_UP_S, b""
        while time.monotonic() < deadline:
            with suppress(RedisError):
                if not since and await redis.hget(LEASES[service], "owner") not in (owner, b""):
                    since = (await redis.xinfo_stream(stream))["last-generated-id"]
                if since and (rows := await redis.xrange(stream, b"(" + since, count=1)):
                    return float(rows[0][0].split(b"-")[0])
            await asyncio.sleep(0.005)
        self.injected.problems.append(f"nobody took over from {service}")
        return GIVES_UP_S * 1000 + time.time() * 1000


def table(measured: Sequence[Takeover]) -> Table:
    """One row per service: seconds until another instance worked, by how the one before ended."""
    made = Table("service", *HOWS, "limit s")
    for service in LEASED:
        rows = {row.how: row for row in measured if row.service == service}
        cells = [f"{rows[how].took_s:.2f}" if how in rows else "–" for how in HOWS]
        made.add_row(service, *cells, f"{LIMIT_S.get(service, OTHERS_LIMIT_S):.0f}")
    return made

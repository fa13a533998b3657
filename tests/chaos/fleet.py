"""The local fleet under a schedule of faults: real server, real processes, links that can be cut."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console

from chaos.faults import LEASED, ORDER, QUIET_BARS, SECOND, SERVER, Fault
from chaos.poison import mark_kind, poison
from chaos.proxy import Link
from quantum_cli.fleet import FLEET, VENUE, FleetMember
from quantum_cli.plan import RunPlan
from quantum_cli.supervisor import Child, Supervisor
from quantum_cli.up import ACCOUNT, LocalFleet
from quantum_common.bus import Entry
from quantum_common.bus.users import ADMIN
from quantum_common.candles import Candles
from quantum_common.contracts import DECISIONS, FEATURES, REGISTRY, Keys

LONGEST_RESTART_PAUSE_S = 1.0
DRAIN_WITHIN_S = 5.0
STAGE_WAIT_MS = 3_000
ORDER_WAIT_S = 15.0
MEMBERS = {member.name: member for member in (VENUE, *FLEET, *SECOND)}
KEYS = Keys(account=ACCOUNT)
STREAMS = {spec.name: KEYS.all_streams(spec)[0] for spec in REGISTRY}
LEASES = {name: KEYS.lease(name, 0 if name in ("feature-svc", "meta-svc") else None) for name in LEASED}


@dataclass
class Injected:
    """What was really done, and what was noticed on the way."""

    counts: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    problems: list[str] = field(default_factory=list)


class DisturbedFleet(LocalFleet):
    """A LocalFleet whose services reach server and venue through links, and which carries out a schedule."""

    members = (*FLEET, *SECOND)
    speed = "max"

    def __init__(
        self, plan: RunPlan, candles: Mapping[str, Candles], console: Console, seed: int, faults: Sequence[Fault]
    ) -> None:
        super().__init__(plan, candles, console)
        self._supervisor = Supervisor(self._crashed, LONGEST_RESTART_PAUSE_S)
        self._seed, self._faults = seed, list(faults)
        self._links: dict[str, Link] = {}
        self._busy = {name: asyncio.Lock() for name in (*MEMBERS, SERVER)}
        self._disturbing: asyncio.Task[None] | None = None
        self.injected = Injected()

    async def run(self, until_done: bool) -> None:
        try:
            await super().run(until_done)
        finally:
            if self._disturbing is not None:
                self._disturbing.cancel()
                (ended,) = await asyncio.gather(self._disturbing, return_exceptions=True)
                if isinstance(ended, Exception):
                    self.injected.problems.append(f"the fault run itself failed: {ended!r}")
            for link in self._links.values():
                await link.close()
            self.injected.counts["cut connections"] = sum(link.cut_connections for link in self._links.values())

    def _counted(self, entry: Entry) -> bool:
        return mark_kind(entry.data) is None

    def _crashed(self, child: Child, code: int) -> None:
        super()._crashed(child, code)
        if code != -signal.SIGKILL:
            self.injected.problems.append(f"{child.name} ended by itself with code {code}; see {child.log_path}")

    async def _start(self, member: FleetMember, settings: Mapping[str, str]) -> Child:
        mine = dict(settings)
        if member in SECOND:
            mine |= {"QT_INSTANCE": "2", "QT_PORT": str(member.port + self._plan.port_offset)}
        if member is not VENUE:
            mine["QT_REDIS_URL"] = await self._linked(f"{member.name}>server", settings["QT_REDIS_URL"])
        if member.name.removesuffix("-2") in ("feature-svc", "executor-svc"):
            mine["QT_VENUE_URL"] = await self._linked(f"{member.name}>venue", settings["QT_VENUE_URL"])
        return await super()._start(member, mine)

    async def _linked(self, name: str, url: str) -> str:
        parts = urlsplit(url)
        assert parts.port is not None
        link = self._links[name] = Link(parts.port)
        await link.start()
        user = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{user}{'@' if user else ''}127.0.0.1:{link.port}").geturl()

    async def _start_services(self, urls: Mapping[str, str], conductor: Any) -> None:
        await super()._start_services(urls, conductor)
        self._disturbing = asyncio.create_task(self._disturb(urls[ADMIN]))

    @property
    def _settled(self) -> int:
        return self.tally.bars // len(self._plan.symbols)

    async def _disturb(self, redis_url: str) -> None:
        async with Redis.from_url(redis_url) as redis, asyncio.TaskGroup() as faults:
            for fault in self._faults:
                while self._settled < fault.bar:  # noqa: ASYNC110 - the conductor tells nobody
                    await asyncio.sleep(0.002)
                faults.create_task(self._carry_out(fault, redis))

    async def _carry_out(self, fault: Fault, redis: Redis) -> None:
        await self._stage(fault.stage, redis)
        await asyncio.sleep(fault.after_ms / 1000)
        if self._settled > len(self._times) - QUIET_BARS // 2:
            self.injected.skipped += 1
            return
        done = await self._do(fault, redis)
        self.injected.counts[_column(fault)] += done
        self.injected.skipped += not done
        self._console.print(f"fault {fault.number} at bar {self._settled}: {fault.kind} {fault.target} {fault.detail}")

    async def _stage(self, stage: str, redis: Redis) -> None:
        """Wait until the line is there; not for ever, it may be standing still."""
        with suppress(TimeoutError, RedisError):
            if stage == ORDER:
                async with asyncio.timeout(ORDER_WAIT_S):
                    await self._links[await self.meant("executor-svc", redis) + ">venue"].request(b"POST")
            elif stage:
                await redis.xread({STREAMS[stage]: "$"}, block=STAGE_WAIT_MS, count=1)

    async def _do(self, fault: Fault, redis: Redis) -> bool:
        """False when there was nothing to do it to."""
        for_s = fault.for_ms / 1000
        name, arrow, other = fault.target.partition(">")
        target = await self.meant(name, redis) + arrow + other
        match fault.kind:
            case "cut":
                return self._links[target].cut() > 0
            case "half_open":
                await self._links[target].half_open(for_s)
            case "lost_replies":
                await self._links[target].lose_replies(for_s)
            case "busy":
                await self._links[target].busy(for_s, fault.detail)
            case "poison":
                return await self._poison(fault, redis)
            case _:
                async with self._busy[target]:
                    await self._hit(fault, self._child(target), for_s)
        return True

    async def meant(self, name: str, redis: Redis) -> str:
        """The process that a target names: of a leased service the one that works, with `-2` the one that does not."""
        service = name.removesuffix("-2")
        if service not in LEASES:
            return name
        owner = b""
        with suppress(RedisError):
            owner = await redis.hget(LEASES[service], "owner") or b""
        works = f"{service}-2" if owner.startswith(b"2:") else service
        return works if name == service else {service: f"{service}-2", f"{service}-2": service}[works]

    async def _hit(self, fault: Fault, child: Child, for_s: float) -> None:
        process = await _running(child)
        match fault.kind:
            case "kill":
                process.kill()
                await process.wait()
            case "pause":
                await _stopped(process, for_s)
            case "slow_disk":
                # An fsync that takes long stops the single-threaded server just like this.
                rng = random.Random(fault.number)
                until = time.monotonic() + for_s
                while time.monotonic() < until and process.returncode is None:
                    await _stopped(process, rng.uniform(0.02, 0.06))
                    await asyncio.sleep(rng.uniform(0.01, 0.03))
            case "redeploy":
                await self._redeploy(child)

    async def _redeploy(self, child: Child) -> None:
        """SIGTERM, a drained end with code 0 in time, a new process."""
        await self._live(MEMBERS[child.name])
        await _running(child)
        ended = await self._supervisor.restart(child)
        if ended.exit_code != 0 or ended.took_s > DRAIN_WITHIN_S:
            self.injected.problems.append(
                f"redeploy of {child.name}: exit code {ended.exit_code} after {ended.took_s:.1f} s"
            )

    async def _live(self, member: FleetMember) -> None:
        async with httpx.AsyncClient(base_url=self._url(member), timeout=2) as client:
            while True:
                with suppress(httpx.HTTPError):
                    if (await client.get("/health/live")).status_code == 200:
                        return
                await asyncio.sleep(0.1)

    def _child(self, name: str) -> Child:
        return next(child for child in self._supervisor.children if child.name == name)

    async def _poison(self, fault: Fault, redis: Redis) -> bool:
        other = DECISIONS if fault.target == FEATURES.name else FEATURES
        while True:
            try:
                real = await _real_events(redis, STREAMS[fault.target])
                others = await _real_events(redis, STREAMS[other.name])
                rng = random.Random(f"{self._seed} {fault.number}")
                fields = poison(fault.detail, self._seed, fault.number, real, others, rng)
                if fields is None:
                    return False
                await redis.xadd(STREAMS[fault.target], dict(fields))  # type: ignore[arg-type]
                return True
            except RedisError:  # the server is down; an entry added twice is two entries of poison
                await asyncio.sleep(0.1)


def _column(fault: Fault) -> str:
    if fault.kind == "kill" and fault.target == SERVER:
        return "server kills"
    return {"kill": "kills", "pause": "pauses", "redeploy": "redeploys"}.get(fault.kind, fault.kind)


async def _running(child: Child) -> asyncio.subprocess.Process:
    while child.process is None or child.process.returncode is not None:  # noqa: ASYNC110 - nor does the supervisor
        await asyncio.sleep(0.02)
    return child.process


async def _stopped(process: asyncio.subprocess.Process, for_s: float) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(for_s)
        finally:
            process.send_signal(signal.SIGCONT)


async def _real_events(redis: Redis, stream: str) -> list[bytes]:
    """Data of the newest events that the fleet wrote, newest first."""
    rows = await redis.xrevrange(stream, count=20)
    found = (fields.get(b"e", b"") for _, fields in rows)
    return [data for data in found if data and mark_kind(data) is None]

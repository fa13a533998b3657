"""`quantum up`: server, venue and services of one machine, the market's clock, and a clean end."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from pathlib import Path

import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console

from quantum_cli.claim import claim_cluster
from quantum_cli.conductor import Conductor
from quantum_cli.control import control_app, serving
from quantum_cli.credentials import USERS, USERS_FILE, load_functions, write_credentials
from quantum_cli.display import RunDisplay, Tally
from quantum_cli.fleet import ACCOUNT, FLEET, READY_WITHIN_S, TRAINER, VENUE, FleetMember
from quantum_cli.market import answers, close_times_ms, conducting, count_dead_letters, until_stopped
from quantum_cli.plan import RunPlan, iso, ledger_url
from quantum_cli.running import RunningFleet, announced, token_path
from quantum_cli.supervisor import Child, Supervisor
from quantum_common.bus import Entry, connect_client
from quantum_common.bus.embedded import server_command
from quantum_common.bus.users import ADMIN, OPERATOR
from quantum_common.candles import Candles
from quantum_common.contracts import Keys
from quantum_common.features import WARMUP_BARS
from quantum_common.service.logs import FILE_NAMES
from quantum_common.testing import free_port

MEMORY_EVERY_S = 5.0


def environment(plan: RunPlan, token: str) -> dict[str, str]:
    """Settings of every process of this run, less its address of the server. What the user exported stays unless it
    is named here."""
    return {
        "QT_ACCOUNT": ACCOUNT,
        "QT_PARTITIONS": str(plan.partitions),
        "QT_INSTANCE": "1",
        "QT_HOST": "127.0.0.1",
        "QT_PORT": "0",
        "QT_WARMUP_BARS": str(WARMUP_BARS),
        "QT_SYMBOLS": ",".join(plan.symbols),
        "QT_TIMEFRAME": plan.timeframe,
        "QT_CLOCK": "replay",
        "QT_STATE_DIR": str(plan.state_dir),
        "QT_MODELS_DIR": str(plan.models_dir),
        "QT_PORT_OFFSET": str(plan.port_offset),
        "QT_API_TOKEN": token,
        "QT_VENUE_URL": f"http://127.0.0.1:{VENUE.port + plan.port_offset}",
        "QT_FROM_MS": str(plan.from_ms),
        "QT_HORIZON_BARS": str(plan.horizon_bars),
        "QT_LEDGER_URL": ledger_url(plan),
        "QT_TRAIN_DATA_DIR": str(plan.data_dir),
        "QT_TRAIN_VENUE": plan.venue,
        "QT_TRAIN_LABEL_THRESHOLD": repr(plan.label_threshold),
        "QT_SIM_DATA_DIR": str(plan.data_dir),
        "QT_SIM_CANDLE_VENUE": plan.venue,
        "QT_SIM_START_MS": str(plan.from_ms),
        "QT_SIM_DATABASE": str(plan.state_dir / "exchange-sim.sqlite"),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


class LocalFleet:
    """One run of `quantum up` from its first process to its last."""

    members: Sequence[FleetMember] = FLEET

    def __init__(
        self, plan: RunPlan, candles: Mapping[str, Candles], console: Console, *, trainer: bool = False
    ) -> None:
        self._plan, self._console = plan, console
        self._beside = (TRAINER,) if trainer else ()
        self._times = close_times_ms(plan, candles)
        self._token = _token(token_path(plan.state_dir))
        self.tally = Tally()
        self._supervisor = Supervisor(self._crashed)

    async def run(self, until_done: bool) -> None:
        """Start everything, drive the market, stop everything; `tally` has the counts, whatever happened.

        Raises RunFailed when the fleet cannot go on, Stopped when a signal came before the run was done.
        """
        await until_stopped(self._work(until_done), lambda: self._supervisor.ending)

    async def _work(self, until_done: bool) -> None:
        async with AsyncExitStack() as stack:
            # Before the supervisor, so that it ends after it: a redeploy under way is told that the fleet ends.
            control_url = await stack.enter_async_context(
                serving(control_app(self._supervisor, self._token, partial(self._console.print, markup=False)))
            )
            await stack.enter_async_context(self._supervisor)
            stack.callback(self._console.print, "stopping the fleet …")
            urls = _same(self._plan.cluster_url) if self._plan.cluster_url else await self._start_server()
            redis_url = urls[OPERATOR]
            keys = Keys(self._plan.partitions, ACCOUNT)
            if self._plan.cluster_url:
                async with aclosing(connect_client(redis_url)) as client:
                    await claim_cluster(client, self._plan.state_dir)
            display = RunDisplay(self._console, self.tally, len(self._times))
            conductor = await stack.enter_async_context(
                conducting(
                    redis_url, self._url(VENUE), self._token, keys, self._plan.timeframe_ms, display, self._counted
                )
            )
            await self._start_services(urls, conductor)
            me = RunningFleet(os.getpid(), redis_url, control_url, keys.partitions, self._plan.port_offset)
            stack.enter_context(announced(self._plan.state_dir, me))
            memory = asyncio.create_task(self._watch_memory())
            stack.callback(memory.cancel)
            started = time.monotonic()
            try:
                with display:
                    await conductor.run(self._times, self._plan.bars_per_s)
            finally:
                self.tally.market_s = time.monotonic() - started
            await self._measure_memory()
            self.tally.dead_letters = await count_dead_letters(redis_url, keys)
            if not until_done:
                self._console.print("the market's data has ended; the fleet stays up until Ctrl-C")
                await asyncio.Event().wait()

    async def _start_server(self) -> Mapping[str, str]:
        """A server with a user per service; the URL of each user."""
        port, folder = free_port(), self._plan.state_dir / "secrets"
        url = f"redis://{{user}}:{{password}}@127.0.0.1:{port}/0"
        urls = write_credentials(folder, url, ACCOUNT, token=self._token)
        command = server_command(self._plan.state_dir / "server", port, folder / USERS_FILE)
        child = Child("server", command, {}, self._log("server"), partial(_pings, urls[OPERATOR]))
        await self._supervisor.start(child)
        await self._supervisor.wait_until_ready(child, within_s=60)
        await load_functions(urls[ADMIN])
        return urls

    async def _start_services(self, urls: Mapping[str, str], conductor: Conductor) -> None:
        settings = environment(self._plan, self._token)
        await self._ready(VENUE, await self._start(VENUE, settings))
        self._say_where_it_goes_on(await conductor.announce())
        children = [
            (member, await self._start(member, {**settings, "QT_REDIS_URL": urls[member.service]}))
            for member in (*self.members, *self._beside)
        ]
        for member, child in children:
            await self._ready(member, child)
        self._console.print(
            f"    logs in {self._plan.state_dir / 'logs'} · API token in {self._plan.state_dir / 'api-token'}"
        )

    def _say_where_it_goes_on(self, now_ms: int) -> None:
        left = sum(close_ms > now_ms for close_ms in self._times)
        if left == 0:
            self._console.print("this run is complete: its last bar is settled again, nothing new is traded")
        elif left < len(self._times):
            self._console.print(f"going on at {iso(now_ms)}: {left} of {len(self._times)} bars are left")

    async def _start(self, member: FleetMember, settings: Mapping[str, str]) -> Child:
        ready = partial(answers, self._url(member) + member.awaited)
        child = Child(member.name, member.argv, settings, self._log(member.name), ready)
        await self._supervisor.start(child)
        return child

    async def _ready(self, member: FleetMember, child: Child) -> None:
        await self._supervisor.wait_until_ready(child, within_s=READY_WITHIN_S)
        self._console.print(f"  [green]●[/] {member.name:<15} {self._url(member)}{member.path}")

    def _url(self, member: FleetMember) -> str:
        return f"http://127.0.0.1:{member.port + self._plan.port_offset}"

    async def _watch_memory(self) -> None:
        while True:
            await self._measure_memory()
            await asyncio.sleep(MEMORY_EVERY_S)

    async def _measure_memory(self) -> None:
        pids = [child.process.pid for child in self._supervisor.children if child.process]
        self.tally.peak_pss_mb = max(self.tally.peak_pss_mb, await asyncio.to_thread(_pss_mb, pids))

    def _counted(self, entry: Entry) -> bool:
        """Whether the conductor counts an entry; a fault run leaves out what it injected."""
        return True

    def _crashed(self, child: Child, code: int) -> None:
        self._console.print(
            f"[red]●[/] {child.name} ended with code {code} and is started again (restart {child.restarts}); "
            f"its last lines:\n{child.last_lines()}"
        )

    def _log(self, name: str) -> Path:
        return self._plan.state_dir / "logs" / f"{FILE_NAMES.get(name, name)}.log"


def _same(url: str) -> Mapping[str, str]:
    """A cluster's users are its operator's business."""
    return dict.fromkeys(USERS, url)


async def _pings(redis_url: str) -> bool:
    async with Redis.from_url(redis_url) as client:
        try:
            return bool(await client.ping())
        except RedisError:  # not up yet, or loading its append-only file
            return False


def _pss_mb(pids: list[int]) -> float:
    """Proportional set size of the processes together, MB."""
    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_full_info().pss
        except psutil.Error:  # ended meanwhile
            continue
    return total / 1e6


def _token(path: Path) -> str:
    """This run's token for mutations, readable by its user only."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()

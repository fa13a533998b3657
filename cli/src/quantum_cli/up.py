"""`quantum up`: server, venue and services of one machine, the market's clock, and a clean end."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import numpy as np
import psutil
from redis.asyncio import Redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from quantum_cli.conductor import Conductor
from quantum_cli.errors import RunFailed, UsageError
from quantum_cli.fleet import FLEET, VENUE, FleetMember, check_ports_free
from quantum_cli.plan import RunPlan
from quantum_cli.supervisor import Child, Supervisor
from quantum_common.bus import RedisBus
from quantum_common.bus.embedded import server_command
from quantum_common.candles import Candles
from quantum_common.contracts import REGISTRY, DecisionMade, Envelope, Keys, dead
from quantum_common.domain import AGENTS
from quantum_common.models import ModelRefused, current_version, read_manifest
from quantum_common.testing import free_port

READY_WITHIN_S = 90.0
SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Tally:
    """What the run has done so far, for the status line and the summary."""

    started: float = field(default_factory=time.monotonic)
    first_decision_s: float | None = None
    bars: int = 0
    """Symbol bars settled by this process; a resumed run counts only its own."""
    decisions: int = 0
    dead_letters: int = 0
    replay_started: float = 0.0
    replay_ended: float = 0.0
    peak_pss_mb: float = 0.0


def models_present(plan: RunPlan) -> bool:
    """True when every agent and the meta model have a current version; some but not all is a usage error."""
    have = [name for name in (*AGENTS, "meta") if current_version(plan.models_dir, name)]
    if have and len(have) < len(AGENTS) + 1:
        raise UsageError(
            f"{plan.models_dir} has models of {', '.join(have)} only: train all of them or choose --models"
        )
    return bool(have)


def refuse_models_that_know_the_range(plan: RunPlan) -> None:
    """A replay must not be decided by models whose labels reach into it (F30)."""
    for name in (*AGENTS, "meta"):
        try:
            manifest = read_manifest(plan.models_dir, name)
        except ModelRefused as error:
            raise UsageError(str(error)) from error
        if manifest.labels_to_ms > plan.from_ms:
            raise UsageError(
                f"{name} {manifest.version} was trained on labels that reach into the range: "
                "choose a later --from or another --models"
            )


def environment(plan: RunPlan, redis_url: str, token: str) -> dict[str, str]:
    """Settings of every process of this run. What the user exported stays, these override it."""
    return {
        "QT_REDIS_URL": redis_url,
        "QT_SYMBOLS": ",".join(plan.symbols),
        "QT_TIMEFRAME": plan.timeframe,
        "QT_CLOCK": "replay",
        "QT_STATE_DIR": str(plan.state_dir),
        "QT_MODELS_DIR": str(plan.models_dir),
        "QT_LOG_DIR": str(plan.state_dir / "logs"),
        "QT_PORT_OFFSET": str(plan.port_offset),
        "QT_API_TOKEN": token,
        "QT_VENUE_URL": f"http://127.0.0.1:{VENUE.port + plan.port_offset}",
        "QT_FROM_MS": str(plan.from_ms),
        "QT_HORIZON_BARS": str(plan.horizon_bars),
        "QT_SIM_DATA_DIR": str(plan.data_dir),
        "QT_SIM_CANDLE_VENUE": plan.venue,
        "QT_SIM_START_MS": str(plan.from_ms),
        "QT_SIM_DATABASE": str(plan.state_dir / "exchange-sim.sqlite"),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def close_times_ms(plan: RunPlan, candles: Mapping[str, Candles]) -> list[int]:
    """Every market time at which some symbol closes a bar of the range, ascending."""
    opens = np.unique(np.concatenate([table.between(plan.from_ms, plan.to_ms).ts for table in candles.values()]))
    return [int(ts) + plan.timeframe_ms for ts in opens]


class LocalFleet:
    """One run of `quantum up` from its first process to its last."""

    def __init__(self, plan: RunPlan, candles: Mapping[str, Candles], console: Console) -> None:
        self._plan, self._candles, self._console = plan, candles, console
        self._stopping = asyncio.Event()
        self._tally = Tally()
        self._token = _token(plan.state_dir / "api-token")
        self.supervisor = Supervisor(self._crashed)

    async def run(self, until_done: bool) -> Tally:
        """Start everything, drive the market, stop everything. RunFailed when the fleet cannot go on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        check_ports_free(self._plan.port_offset)
        async with self.supervisor:
            redis_url = await self._start_server()
            bus = RedisBus.connect(redis_url)
            try:
                await self._start_services(redis_url)
                self._print_urls()
                await self._drive(bus, until_done)
                self._tally.dead_letters = await self._count_dead_letters(bus)
            finally:
                await bus.close()
                self._console.print("stopping the fleet …")
        return self._tally

    async def _start_server(self) -> str:
        port = free_port()
        url = f"redis://127.0.0.1:{port}/0"
        child = Child("server", server_command(self._plan.state_dir / "server", port), {}, self._log("server"))
        await self.supervisor.start(child)
        client = Redis.from_url(url)

        async def ready() -> bool:
            try:
                return bool(await client.ping())
            except Exception:  # not up yet, or loading its append-only file
                return False

        await self.supervisor.wait_until(child, ready, within_s=60)
        await client.aclose()
        return url

    async def _start_services(self, redis_url: str) -> None:
        settings = environment(self._plan, redis_url, self._token)
        children = {}
        for member in (VENUE, *FLEET):
            self._stop_if_asked()
            child = Child(member.name, member.argv, settings, self._log(member.name))
            children[member] = child
            await self.supervisor.start(child)
            if member is VENUE:
                await self._ready(member, child)
        for member in FLEET:
            await self._ready(member, children[member])

    async def _ready(self, member: FleetMember, child: Child) -> None:
        url = f"http://127.0.0.1:{member.port + self._plan.port_offset}/health/live"

        async with httpx.AsyncClient(timeout=2) as client:

            async def answers() -> bool:
                self._stop_if_asked()
                try:
                    return (await client.get(url)).status_code == 200
                except httpx.HTTPError:
                    return False

            await self.supervisor.wait_until(child, answers, within_s=READY_WITHIN_S)
        self._console.print(f"  [green]●[/] {member.name:<15} up on 127.0.0.1:{member.port + self._plan.port_offset}")

    def _stop_if_asked(self) -> None:
        if self._stopping.is_set():
            raise Stopped

    def _print_urls(self) -> None:
        offset = self._plan.port_offset
        for member in (VENUE, *FLEET):
            if member.url_hint != "/health/ready":
                self._console.print(f"    http://127.0.0.1:{member.port + offset}{member.url_hint}")
        self._console.print(
            f"    logs: {self._plan.state_dir / 'logs'}   API token: {self._plan.state_dir / 'api-token'}"
        )

    async def _drive(self, bus: RedisBus, until_done: bool) -> None:
        times = close_times_ms(self._plan, self._candles)
        interactive = self._console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        venue_url = f"http://127.0.0.1:{VENUE.port + self._plan.port_offset}"
        with Progress(*columns, console=self._console, disable=not interactive) as progress:
            task = progress.add_task("bars", total=len(times))
            last_line = time.monotonic()

            def on_bar(bar_ts_ms: int, published: int) -> None:
                nonlocal last_line
                self._tally.bars += published
                if self._tally.bars % 500 < published:
                    self._tally.peak_pss_mb = max(self._tally.peak_pss_mb, self._memory_mb())
                progress.update(task, advance=1, description=f"{_iso(bar_ts_ms)} · {self._tally.decisions} decisions")
                if not interactive and time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                    last_line = time.monotonic()
                    self._console.print(f"{_iso(bar_ts_ms)} · {self._tally.decisions} decisions")

            headers = {"Authorization": f"Bearer {self._token}"}
            async with httpx.AsyncClient(base_url=venue_url, headers=headers, timeout=30) as venue:
                conductor = Conductor(
                    bus, venue, Keys(account="paper"), self._plan.timeframe_ms, on_bar, self._on_decision
                )
                self._tally.replay_started = time.monotonic()
                ended = await conductor.run(times, self._plan.bars_per_s, self._stopping)
                self._tally.replay_ended = time.monotonic()
        if ended and not until_done:
            self._console.print("the market's data has ended; the fleet stays up until Ctrl-C")
            await self._stopping.wait()
        if until_done and not ended:
            raise Stopped

    async def _count_dead_letters(self, bus: RedisBus) -> int:
        keys = Keys(account="paper")
        streams = [dead(name) for spec in REGISTRY for name in keys.all_streams(spec)]
        return sum(info.length for info in (await bus.stream_infos(streams)).values())

    def _on_decision(self, event: Envelope[DecisionMade]) -> None:
        self._tally.decisions += 1
        if self._tally.first_decision_s is None:
            self._tally.first_decision_s = time.monotonic() - self._tally.started
            made = event.payload
            self._console.print(
                f"first decision after {self._tally.first_decision_s:.1f} s: {event.symbol} {made.action.value} "
                f"{made.confidence:.3f} ({made.reason})"
            )

    def _memory_mb(self) -> float:
        """Proportional set size of all children, MB."""
        total = 0
        for child in self.supervisor.children:
            if child.process is not None:
                try:
                    total += psutil.Process(child.process.pid).memory_full_info().pss
                except psutil.Error:
                    continue
        return total / 1e6

    def _crashed(self, child: Child, code: int) -> None:
        self._console.print(
            f"[red]●[/] {child.name} ended with code {code} and is started again (restart {child.restarts}); "
            f"its last lines:\n{child.last_lines()}"
        )

    def _log(self, name: str) -> Path:
        return self._plan.state_dir / "logs" / f"{name}.out"


def _token(path: Path) -> str:
    """This run's token for mutations, readable by its user only."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()


class Stopped(Exception):
    """The user asked for the end."""


async def train_first_models(plan: RunPlan, console: Console) -> None:
    """Train in a process of its own, on bars before the range only, with its progress drawn here."""
    command = [
        *(sys.executable, "-m", "quantum_cli", "train", "--quick", "--progress-json"),
        *("--data", str(plan.data_dir), "--venue", plan.venue, "--symbols", ",".join(plan.symbols)),
        *("--timeframe", plan.timeframe, "--to", _iso(plan.from_ms), "--models", str(plan.models_dir)),
        *("--label-threshold", repr(plan.label_threshold), "--horizon", str(plan.horizon_bars)),
    ]
    console.print(f"no models in {plan.models_dir}: training the first ones on bars before {_iso(plan.from_ms)}")
    log_path = plan.state_dir / "logs" / "train.out"
    child = Child("train", command, {"PYTHONUNBUFFERED": "1"}, log_path)
    process = await child.start(piped=True)
    try:
        await _show_progress(process, console)
        code = await process.wait()
    finally:
        await child.stop()
    if code:
        raise RunFailed(f"training ended with code {code}; its last lines ({log_path}):\n{child.last_lines(8)}")


async def _show_progress(process: asyncio.subprocess.Process, console: Console) -> None:
    assert process.stdout is not None
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("training", total=1.0)
        stage = ""
        async for line in process.stdout:
            row = msgspec.json.decode(line)
            progress.update(task, completed=row["fraction"], description=f"training: {row['stage']}")
            if not console.is_terminal and row["stage"] != stage:
                stage = row["stage"]
                console.print(f"  training {row['fraction']:4.0%}: {stage}")


def _iso(ts_ms: int) -> str:
    return np.datetime_as_string(np.datetime64(ts_ms, "ms"), unit="m").item()

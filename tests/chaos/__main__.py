"""`python -m chaos`: train once, run the fleet in peace, then once per seed under faults, and compare.

Exit codes: 0 all runs equal, 1 something was lost, doubled, left behind or different, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from chaos.evidence import Evidence, gather
from chaos.faults import Fault, schedule, write_schedule
from chaos.fleet import DisturbedFleet
from chaos.report import judge, last_line, table
from chaos.takeover import EXPECTED, Takeover, TakeoverFleet
from chaos.takeover import table as takeover_table
from exchange_sim import synthetic
from quantum_cli.errors import RunFailed
from quantum_cli.fleet import check_ports_free
from quantum_cli.market import Stopped
from quantum_cli.plan import RunPlan, claim_state_dir, iso, make_plan, parse_symbols, read_all
from quantum_cli.report import write_summary
from quantum_common import QuantumError
from quantum_common.candles import Candles, write_candles
from quantum_common.domain.timeframe import timeframe_ms

TIMEFRAME = "1h"
LABEL_THRESHOLD = 0.004
SETTINGS = {"QT_MIN_CONFIDENCE_THRESHOLD": "0.40"}
"""With the defaults the models hardly trade, and a run without fills shows nothing."""
HELD_OUT_BARS = 2_000
SYNTHETIC_TRAINING_BARS = 3_000
RUN_TIMEOUT_S = 900


@dataclass
class Run:
    """A finished run of the fleet."""

    state_dir: Path
    summary: dict[str, Any]
    evidence: Evidence
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    ended: bool = True
    """False: it stalled or took too long."""
    takeovers: list[Takeover] = field(default_factory=list)


@dataclass(frozen=True)
class Market:
    work: Path
    data_dir: Path
    venue: str
    symbols: tuple[str, ...]
    from_ms: int
    to_ms: int
    port_offset: int

    @property
    def models_dir(self) -> Path:
        return self.work / f"models-{self.venue}-{'-'.join(self.symbols)}-{iso(self.from_ms).replace(':', '')}"

    def plan(self, name: str, speed: str = "max") -> tuple[RunPlan, dict[str, Candles]]:
        return make_plan(
            data_dir=self.data_dir,
            venue=self.venue,
            symbols=self.symbols,
            timeframe=TIMEFRAME,
            from_ms=self.from_ms,
            to_ms=self.to_ms,
            speed=speed,
            models_dir=self.models_dir,
            state_dir=self.work / name,
            port_offset=self.port_offset,
            label_threshold=LABEL_THRESHOLD,
        )


def main() -> int:
    options = _options()
    console = Console(highlight=False, width=200)
    for name in ("QT_LEDGER_URL", "QT_REDIS_URL", "QT_PARTITIONS"):
        os.environ.pop(name, None)  # each run has its own
    os.environ |= SETTINGS
    work = (options.work or Path(tempfile.mkdtemp(prefix="chaos-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        market = _market(work, options)
        check_ports_free(market.port_offset)
        _train(market, console)
        good = _runs(market, options, console)
    except QuantumError as error:
        console.print(f"chaos could not run: {error}", soft_wrap=True)
        return 1
    except Stopped:
        console.print("stopped")
        return 1
    if good and options.work is None:
        shutil.rmtree(work)
    return 0 if good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seeds", default="1,2,3", help="seeds, separated by commas")
    parser.add_argument("--seed", type=int, help="one seed: replays exactly its schedule")
    parser.add_argument("--bars", type=int, default=240)
    parser.add_argument("--rate", type=float, default=1.0, help="multiplies the faults drawn at random")
    parser.add_argument("--symbols", default="BTCUSDT,ETHUSDT,SOLUSDT")
    parser.add_argument("--work", type=Path, help="keeps models and runs; without it they are removed at a good end")
    parser.add_argument("--hours", type=float, help="new seeds until one fails or the hours are over")
    parser.add_argument(
        "--takeovers",
        action=argparse.BooleanOptionalAction,
        help="measure takeovers only, or leave them out; default: with a list of seeds before them",
    )
    parser.add_argument("--port-offset", type=int, default=23_000)
    options = parser.parse_args()
    if options.takeovers is None and (options.seed is not None or options.hours is not None):
        options.takeovers = False
    return options


def _market(work: Path, options: argparse.Namespace) -> Market:
    symbols, step_ms = parse_symbols(options.symbols), timeframe_ms(TIMEFRAME)
    held_out = max(HELD_OUT_BARS, options.bars)
    recorded = Path(os.environ.get("QT_DATA_DIR", ""))
    if all((recorded / f"binance_{symbol}_{TIMEFRAME}.parquet").is_file() for symbol in symbols):
        candles = read_all(recorded, "binance", symbols, TIMEFRAME)
        from_ms = min(int(each.ts[-1]) for each in candles.values()) + step_ms - held_out * step_ms
        data_dir, venue = recorded, "binance"
    else:
        from_ms = synthetic.START_MS + SYNTHETIC_TRAINING_BARS * step_ms
        data_dir, venue = work / "market", synthetic.VENUE
        _make_market(data_dir, symbols, SYNTHETIC_TRAINING_BARS + held_out)
    return Market(work, data_dir, venue, symbols, from_ms, from_ms + options.bars * step_ms, options.port_offset)


def _make_market(folder: Path, symbols: Sequence[str], bars: int) -> None:
    for symbol in symbols:
        made = synthetic.generate(symbol, TIMEFRAME, bars, synthetic.START_MS, synthetic.SEED)
        write_candles(folder, synthetic.VENUE, symbol, TIMEFRAME, made)


def _train(market: Market, console: Console) -> None:
    if market.models_dir.exists():
        return
    console.print(f"training on bars before {iso(market.from_ms)}, a minute or two")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "quantum_cli", "train", "--quick", "--data", str(market.data_dir)),
            *("--venue", market.venue, "--symbols", ",".join(market.symbols), "--timeframe", TIMEFRAME),
            *("--to", iso(market.from_ms), "--models", str(market.models_dir)),
            *("--label-threshold", repr(LABEL_THRESHOLD)),
        ],
        capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        shutil.rmtree(market.models_dir, ignore_errors=True)
        raise RunFailed(f"training failed:\n{done.stderr[-2000:]}")


def _runs(market: Market, options: argparse.Namespace, console: Console) -> bool:
    bars = _bars(market)
    peace = _run(market, "undisturbed", 0, [], console)
    calm = judge(peace.evidence, bars, peace.summary, peace.summary, peace.problems)
    if not calm.good or not peace.summary["fills"]:
        console.print(f"the undisturbed run in {peace.state_dir} is no measure:", *calm.explained(), sep="\n  ")
        return False
    console.print(f"undisturbed: {peace.summary['fills']} fills, {peace.wall_s:.0f} s")
    good = options.takeovers is False or _take_over(market, bars, peace, console)
    if options.takeovers:
        return good
    rows, bad = [], []
    for seed in _seeds(options):
        run = _run(market, f"seed-{seed}", seed, schedule(seed, options.bars, options.rate), console)
        verdict = judge(run.evidence, _reached(bars, run), run.summary, peace.summary, run.problems)
        rows.append((seed, len(bars), run.counts, run.wall_s, run.evidence, verdict))
        if not verdict.good:
            bad.append(seed)
            console.print(f"seed {seed} FAILED; look into {run.state_dir}", *verdict.explained(), sep="\n  ")
            console.print(f"again: {_again(seed, options, market)}")
        console.print(table(rows if options.hours is None else rows[-1:]))
        print(last_line(seed, len(bars), _kills(run), verdict), flush=True)
        if bad and options.hours is not None:
            break
    return good and not bad


def _take_over(market: Market, bars: list[tuple[str, int]], peace: Run, console: Console) -> bool:
    """Every service under a lease loses its worker three times; the run ends like the undisturbed one."""
    run = _run(market, "takeovers", 0, [], console, TakeoverFleet)
    verdict = judge(run.evidence, _reached(bars, run), run.summary, peace.summary, run.problems)
    wrong = [*verdict.explained(), *(f"late: {row}" for row in run.takeovers if row.late)]
    if len(run.takeovers) < EXPECTED:
        wrong.append(f"{len(run.takeovers)} of {EXPECTED} takeovers in {len(bars)} symbol bars: give more --bars")
    console.print(takeover_table(run.takeovers))
    if wrong or not verdict.good:
        console.print(f"takeovers FAILED; look into {run.state_dir}", *wrong, sep="\n  ")
    return not wrong and verdict.good


def _reached(bars: list[tuple[str, int]], run: Run) -> list[tuple[str, int]]:
    """Bars that a run played: one that stalls is judged up to where it stood."""
    if run.ended:
        return bars
    newest = max((slot.bar_ts_ms for slot in run.evidence.on_bus), default=-1)
    return [(symbol, ts) for symbol, ts in bars if ts <= newest]


def _again(seed: int, options: argparse.Namespace, market: Market) -> str:
    rest = f"--bars {options.bars} --rate {options.rate} --symbols {options.symbols} --work {market.work}"
    return f'make chaos CHAOS="--seed {seed} {rest}"'


def _kills(run: Run) -> int:
    return run.counts.get("kills", 0) + run.counts.get("server kills", 0)


def _seeds(options: argparse.Namespace) -> Iterator[int]:
    if options.seed is not None:
        yield options.seed
    elif options.hours is None:
        yield from (int(part) for part in options.seeds.split(","))
    else:
        until = time.monotonic() + 3600 * options.hours
        while time.monotonic() < until:
            yield random.SystemRandom().randrange(1_000, 1_000_000)


def _bars(market: Market) -> list[tuple[str, int]]:
    candles = read_all(market.data_dir, market.venue, market.symbols, TIMEFRAME)
    return [
        (symbol, int(ts)) for symbol, table in candles.items() for ts in table.between(market.from_ms, market.to_ms).ts
    ]


def _run(
    market: Market,
    name: str,
    seed: int,
    faults: Sequence[Fault],
    console: Console,
    fleet_type: type[DisturbedFleet] = DisturbedFleet,
) -> Run:
    """One run of the fleet in a new state folder. A run that stalls is judged by what it left behind."""
    shutil.rmtree(market.work / name, ignore_errors=True)
    plan, candles = market.plan(name, fleet_type.speed)
    claim_state_dir(plan)
    write_schedule(plan.state_dir / "schedule.jsonl", faults)
    console.print(
        f"{name}: {len(faults)} faults over {iso(plan.from_ms)} .. {iso(plan.to_ms)}, state in {plan.state_dir}"
    )
    started, ended = time.monotonic(), True
    with (plan.state_dir / "chaos.log").open("w") as log:
        log_console = Console(file=log, highlight=False, width=200)
        fleet = fleet_type(plan, candles, log_console, seed, faults)

        async def bounded() -> None:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                await fleet.run(until_done=True)

        try:
            uvloop.run(bounded())
        except (RunFailed, TimeoutError) as error:
            ended = False
            fleet.injected.problems.append(f"the run did not end: {error!r}")
        wall_s = time.monotonic() - started
        write_summary(plan, fleet.tally, wall_s, plan.state_dir / "summary.json", log_console)
    summary = json.loads((plan.state_dir / "summary.json").read_text())
    counts = dict(fleet.injected.counts)
    if skipped := fleet.injected.skipped:
        console.print(f"  {skipped} faults found nothing to hit")
    return Run(
        plan.state_dir,
        summary,
        gather(plan.state_dir),
        counts,
        fleet.injected.problems,
        wall_s,
        ended,
        fleet.takeovers if isinstance(fleet, TakeoverFleet) else [],
    )


if __name__ == "__main__":
    sys.exit(main())

"""`python -m chaos.soak`: the real fleet under load for a long time, with everything that could grow measured.

Real 1h candles of five symbols where `QT_DATA_DIR` has them, else a synthetic market. A symbol bar a second is 12
times what five symbols of 1m bars bring, and the fleet does tens of them. Judged after the first third (warm-up): in
the last third no process, and not the server, may need more than a tenth above what it needed in the middle one, and
no stream may be longer than the recorder keeps, with what comes between two trims. Exit codes: 0 flat, 1 not flat or
not ended well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from quantum_cli.first_models import models_present, train_first_models
from quantum_cli.market import Stopped
from quantum_cli.plan import RunPlan, claim_state_dir, make_plan, parse_symbols, read_all
from quantum_cli.up import LocalFleet
from quantum_common.candles import Candles, write_candles
from quantum_common.contracts import REGISTRY, Keys
from quantum_common.domain.timeframe import timeframe_ms
from recorder_svc.streams import KEPT_ENTRIES
from recorder_svc.trimming import TRIM_EVERY_S

SYMBOLS = "BTCUSDT,ETHUSDT,BNBUSDT,SOLUSDT,ADAUSDT"
TIMEFRAME = "1h"
SYNTHETIC_START_MS = 1_420_070_400_000  # 2015-01-01
SYNTHETIC_BARS = 60_000
SAMPLE_EVERY_S = 10.0
ALLOWED = 1.10
SLACK_BYTES = 8e6
"""Of a process: an allocator's page here or there is no leak."""
LONGEST_STREAM = KEPT_ENTRIES + 400 * TRIM_EVERY_S
"""Kept, and what a busy line writes between two trims."""


class MeasuredFleet(LocalFleet):
    """A LocalFleet that writes down what it needs while it runs."""

    def __init__(self, plan: RunPlan, candles: Mapping[str, Candles], console: Console, minutes: float) -> None:
        super().__init__(plan, candles, console)
        self._until = time.monotonic() + 60 * minutes
        self.samples: list[dict[str, float]] = []

    async def run(self, until_done: bool) -> None:
        work = asyncio.create_task(super().run(until_done))
        while not work.done() and time.monotonic() < self._until:
            await asyncio.wait({work}, timeout=SAMPLE_EVERY_S)
            if self.tally.bars and not work.done():
                with contextlib.suppress(RedisError, psutil.Error):  # the fleet has just ended
                    self.samples.append(await self._sample())
        if not work.done():
            os.kill(os.getpid(), signal.SIGTERM)  # LocalFleet stops in order, as after Ctrl-C
        with contextlib.suppress(Stopped):
            await work

    async def _sample(self) -> dict[str, float]:
        found = {"bars": float(self.tally.bars)}
        for child in self._supervisor.children:
            if child.process is not None and child.process.returncode is None:
                found[f"{child.name} rss"] = float(psutil.Process(child.process.pid).memory_info().rss)
        port = next(child for child in self._supervisor.children if child.name == "server").argv
        url = f"redis://127.0.0.1:{port[port.index('--port') + 1]}/0"
        async with Redis.from_url(url) as redis:
            found["server used_memory"] = float((await redis.info("memory"))["used_memory"])
            for spec in REGISTRY:
                for stream in Keys().all_streams(spec):
                    found[f"{stream} length"] = float(await redis.xlen(stream))
        return found


def growth(samples: list[dict[str, float]]) -> dict[str, tuple[float, float, bool]]:
    """Per measure: its highest value in the middle and in the last third, and whether it is flat."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    found = {}
    for name in samples[-1]:
        before = max(row.get(name, 0.0) for row in middle)
        after = max(row.get(name, 0.0) for row in last)
        if name.endswith("length"):
            flat = after <= LONGEST_STREAM
        else:
            flat = name == "bars" or after <= max(ALLOWED * before, before + SLACK_BYTES)
        found[name] = before, after, flat
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--work", type=Path, help="keeps models and the run")
    parser.add_argument("--port-offset", type=int, default=24_000)
    options = parser.parse_args()
    os.environ |= {"QT_MIN_CONFIDENCE_THRESHOLD": "0.40"}
    console = Console(highlight=False, width=160)
    work = (options.work or Path(tempfile.mkdtemp(prefix="soak-"))).resolve()
    plan, candles = _plan(work, options.port_offset, options.minutes)
    claim_state_dir(plan)
    with (work / "soak.log").open("w") as log:
        fleet = MeasuredFleet(plan, candles, Console(file=log, width=160), options.minutes)

        async def everything() -> None:
            if not models_present(plan):
                console.print("training, a minute or two")
                await train_first_models(plan, Console(file=log, width=160))
            fleet._until = time.monotonic() + 60 * options.minutes
            await fleet.run(until_done=True)

        uvloop.run(everything())
    rows = growth(fleet.samples)
    table = Table("measure", "middle third, max", "last third, max", "")
    for name, (before, after, flat) in rows.items():
        unit = 1e6 if name.endswith(("rss", "memory")) else 1
        table.add_row(name, f"{before / unit:,.1f}", f"{after / unit:,.1f}", "flat" if flat else "GROWS")
    console.print(table)
    wall_s = len(fleet.samples) * SAMPLE_EVERY_S
    good = all(flat for *_, flat in rows.values())
    bars = int(fleet.samples[-1]["bars"])
    print(f"soak minutes={wall_s / 60:.0f} symbol_bars={bars} per_s={bars / wall_s:.0f} flat={good}", flush=True)
    if good and options.work is None:
        shutil.rmtree(work)
    return 0 if good else 1


def _plan(work: Path, port_offset: int, minutes: float) -> tuple[RunPlan, dict[str, Candles]]:
    symbols, recorded, venue = parse_symbols(SYMBOLS), Path(os.environ.get("QT_DATA_DIR", "")), "binance"
    if not all((recorded / f"binance_{symbol}_{TIMEFRAME}.parquet").is_file() for symbol in symbols):
        from exchange_sim.synthetic import generate

        recorded, venue = work / "market", "synthetic"
        for symbol in symbols:
            made = generate(symbol, TIMEFRAME, SYNTHETIC_BARS, SYNTHETIC_START_MS, 7)
            write_candles(recorded, venue, symbol, TIMEFRAME, made)
    step_ms = timeframe_ms(TIMEFRAME)
    tables = read_all(recorded, venue, symbols, TIMEFRAME)
    first, last = max(int(each.ts[0]) for each in tables.values()), min(int(each.ts[-1]) for each in tables.values())
    plan, candles = make_plan(
        data_dir=recorded, venue=venue, symbols=symbols, timeframe=TIMEFRAME,
        from_ms=first + (last - first) // 4 // step_ms * step_ms, to_ms=None, speed="max",
        models_dir=work / "models", state_dir=work / "run", port_offset=port_offset, label_threshold=0.004,
    )  # fmt: skip
    bars = (plan.to_ms - plan.from_ms) // step_ms
    return dataclasses.replace(plan, bars_per_s=bars / (60 * minutes)), candles  # so that the range lasts that long


if __name__ == "__main__":
    sys.exit(main())

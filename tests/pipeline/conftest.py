"""One trained set of models and a few replays of the whole fleet, shared by the tests of this folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exchange_sim.synthetic import generate
from quantum_common.candles import COLUMNS, Candles, read_candles, write_candles

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
START_MS = 1_704_067_200_000
HOUR_MS = 3_600_000
TRAINING_BARS = 3_000
FIRST_MS = START_MS + TRAINING_BARS * HOUR_MS
REPLAY_BARS = 120


@dataclass(frozen=True)
class Replay:
    """What a finished run left behind."""

    summary: dict[str, Any]
    state_dir: Path
    output: str

    def events(self, stream: str) -> Iterator[dict[str, Any]]:
        """Archived events of a stream, each id once, in order."""
        seen = set()
        for path in sorted((self.state_dir / "archive").glob(f"*/{stream}.jsonl")):
            for line in path.read_text().splitlines():
                event = json.loads(line)
                if event["event_id"] not in seen:
                    seen.add(event["event_id"])
                    yield event


@dataclass(frozen=True)
class Market:
    data_dir: Path
    venue: str
    models_dir: Path
    work_dir: Path

    def replay(self, name: str, first_bar: int, bars: int, port_offset: int, **settings: str) -> Replay:
        """`quantum up --until-done` over some bars, in a state folder of its own."""
        state_dir = self.work_dir / name
        options = self.options(name, first_bar, bars, port_offset)
        result = quantum("up", *options, "--until-done", "--summary", state_dir / "summary.json", **settings)
        assert result.returncode == 0, result.stdout + result.stderr
        return Replay(json.loads((state_dir / "summary.json").read_text()), state_dir, result.stdout)

    def options(self, name: str, first_bar: int, bars: int, port_offset: int) -> list[str]:
        """Of `quantum up`: the market, the range and the state folder."""
        options = (
            "--data", self.data_dir, "--venue", self.venue, "--symbols", ",".join(SYMBOLS), "--timeframe", "1h",
            "--from", iso(first_bar), "--to", iso(first_bar + bars), "--models", self.models_dir,
            "--state-dir", self.work_dir / name, "--port-offset", port_offset, "--label-threshold", "0.004",
        )  # fmt: skip
        return list(map(str, options))


def iso(bar: int) -> str:
    """Open time of a bar counted from the first one after training."""
    import datetime

    moment = datetime.datetime.fromtimestamp((FIRST_MS + bar * HOUR_MS) / 1000, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M")


def quantum(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quantum_cli", *map(str, arguments)],
        capture_output=True, text=True, timeout=280, check=False, env={**os.environ, **settings},
    )  # fmt: skip


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    work = tmp_path_factory.mktemp("pipeline")
    for symbol in SYMBOLS:
        candles = generate(symbol, "1h", TRAINING_BARS + 2 * REPLAY_BARS + 10, START_MS, 11)
        write_candles(work / "market", "synthetic", symbol, "1h", candles)
    result = quantum(
        "train", "--quick", "--data", work / "market", "--venue", "synthetic", "--symbols", ",".join(SYMBOLS),
        "--timeframe", "1h", "--to", iso(0), "--models", work / "models", "--label-threshold", "0.004",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return Market(work / "market", "synthetic", work / "models", work)


TRADING = {"QT_MIN_CONFIDENCE_THRESHOLD": "0.40"}


@pytest.fixture(scope="session")
def first(market: Market) -> Replay:
    return market.replay("first", 0, REPLAY_BARS, 20_000, **TRADING)


@pytest.fixture(scope="session")
def again(market: Market, first: Replay) -> Replay:
    return market.replay("again", 0, REPLAY_BARS, 20_100, **TRADING)


@pytest.fixture(scope="session")
def damaged(market: Market, again: Replay) -> Replay:
    """Twelve bars of which ETHUSDT has one with high below low, one without a close, one with negative volume, and
    lacks one."""
    data_dir = market.work_dir / "damaged"
    for symbol in SYMBOLS:
        candles = read_candles(market.data_dir, market.venue, symbol, "1h")
        if symbol == "ETHUSDT":
            candles = damage(candles)
        write_candles(data_dir, market.venue, symbol, "1h", candles)
    worse = Market(data_dir, market.venue, market.models_dir, market.work_dir)
    return worse.replay("damaged", 0, 12, 20_400, **TRADING)


def damage(candles: Candles) -> Candles:
    columns = {name: getattr(candles, name).copy() for name in COLUMNS}
    columns["high"][TRAINING_BARS + 3] = columns["low"][TRAINING_BARS + 3] / 2
    columns["close"][TRAINING_BARS + 5] = np.nan
    columns["volume"][TRAINING_BARS + 7] = -1.0
    return Candles(**{name: np.delete(column, TRAINING_BARS + 9) for name, column in columns.items()})


@pytest.fixture(scope="session")
def other_dates(market: Market, again: Replay) -> Replay:
    return market.replay("other", REPLAY_BARS, 40, 20_200, **TRADING)


@pytest.fixture(scope="session")
def partitioned(market: Market, other_dates: Replay) -> Replay:
    """The other dates once more, with the symbols in several partitions."""
    return market.replay("partitioned", REPLAY_BARS, 40, 20_500, QT_PARTITIONS="4", **TRADING)

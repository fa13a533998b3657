"""A seeded synthetic market: candles with regimes that a model can learn, for runs without any data.

A symbol moves through trends (up or down), wide ranges and calm ranges of some dozen bars each. In a trend the drift
outweighs the noise over the label horizon, so its direction is partly known from the past; in a range the price is
pulled back to the middle. Volatility clusters. Size follows the timeframe's label threshold, so that on every
timeframe about a quarter of the bars move further than it within 5 bars.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exchange_sim import SimError
from exchange_sim.rules import rules_for
from quantum_common.candles import Candles, write_candles
from quantum_common.domain.timeframe import DEFAULT_LABEL_THRESHOLD, timeframe_ms

VENUE = "synthetic"
"""Venue name under which generated candles are written to files."""
SEED = 7
START_MS = 1_704_067_200_000  # 2024-01-01
TRAINING_BARS = 6_000
TRADING_BARS = 20_000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Regime:
    """One kind of market. `drift` and `noise` per bar, as fractions of the label threshold."""

    share: float
    drift: float
    noise: float
    pull: float
    """Share of the distance to the middle of the range that a bar takes back."""
    bars: tuple[int, int]
    volume: float


REGIMES = (
    Regime(share=0.28, drift=0.32, noise=0.30, pull=0.0, bars=(24, 64), volume=1.6),
    Regime(share=0.22, drift=0.0, noise=0.55, pull=0.10, bars=(16, 48), volume=1.3),
    Regime(share=0.50, drift=0.0, noise=0.16, pull=0.05, bars=(24, 80), volume=0.7),
)

_HOME = 1.5
"""How strongly trends prefer the direction back to the first price (per unit of log distance)."""
_CLUSTER = 0.97
_CLUSTER_SIZE = 0.06
_FIRST_PRICE = {
    "BTCUSDT": 40_000.0, "ETHUSDT": 2_500.0, "BNBUSDT": 300.0, "SOLUSDT": 100.0,
    "ADAUSDT": 0.5, "XRPUSDT": 0.6, "DOGEUSDT": 0.1, "LTCUSDT": 80.0,
}  # fmt: skip
_TURNOVER_USD = 20_000_000.0


def generate(symbol: str, timeframe: str, bars: int, start_ts_ms: int, seed: int) -> Candles:
    """`bars` candles from `start_ts_ms` (open of the first, UTC ms); the same arguments give the same candles."""
    if bars < 1:
        raise SimError(f"bars {bars}: at least one")
    step_ms = timeframe_ms(timeframe)
    rng = np.random.default_rng([seed, zlib.crc32(symbol.encode()), step_ms])
    unit = DEFAULT_LABEL_THRESHOLD[timeframe]
    returns, noise, activity = _returns(rng, bars, unit)
    first = _FIRST_PRICE.get(symbol, 50.0)
    close = first * np.exp(np.cumsum(returns))
    open_ = np.concatenate(([first], close[:-1]))
    high = np.maximum(open_, close) * np.exp(noise * np.abs(rng.standard_normal(bars)) * 0.5)
    low = np.minimum(open_, close) * np.exp(-noise * np.abs(rng.standard_normal(bars)) * 0.5)
    moved = np.abs(returns) / unit
    volume = _TURNOVER_USD / close * activity * (0.6 + moved) * np.exp(0.35 * rng.standard_normal(bars))
    tick, step = float(rules_for(symbol).tick), float(rules_for(symbol).step)
    ts = start_ts_ms + step_ms * np.arange(bars, dtype=np.int64)
    return Candles(
        ts, _on_grid(open_, tick), _on_grid(high, tick), _on_grid(low, tick), _on_grid(close, tick),
        _on_grid(volume, step),
    )  # fmt: skip


def _returns(rng: np.random.Generator, bars: int, unit: float) -> tuple[Floats, Floats, Floats]:
    """Log returns, their noise per bar, and the activity that volume follows; each of length `bars`."""
    shocks = rng.standard_normal(bars)
    clusters = _clusters(rng, bars)
    returns, noise, activity = np.empty(bars), np.empty(bars), np.empty(bars)
    done, level = 0, 0.0
    while done < bars:
        regime = REGIMES[_next_regime(rng)]
        length = min(int(rng.integers(*regime.bars, endpoint=True)), bars - done)
        part = slice(done, done + length)
        noise[part] = regime.noise * unit * clusters[part]
        activity[part] = regime.volume * clusters[part]
        up = rng.random() < 1.0 / (1.0 + np.exp(_HOME * level))
        drift = regime.drift * unit * (1.0 if up else -1.0)
        returns[part] = _segment(shocks[part] * noise[part], drift, regime.pull)
        level += float(returns[part].sum())
        done += length
    return returns, noise, activity


def _next_regime(rng: np.random.Generator) -> int:
    """A regime, drawn so that each holds its share of the bars."""
    weights = np.array([regime.share / sum(regime.bars) for regime in REGIMES])
    return int(rng.choice(len(REGIMES), p=weights / weights.sum()))


def _segment(shocks: Floats, drift: float, pull: float) -> Floats:
    if not pull:
        return shocks + drift
    distance, moves = 0.0, []
    for shock in shocks.tolist():
        move = shock - pull * distance
        distance += move
        moves.append(move)
    return np.array(moves)


def _clusters(rng: np.random.Generator, bars: int) -> Floats:
    """A slowly changing factor around 1 on the noise: volatility clusters."""
    level, levels = 0.0, []
    for shock in (_CLUSTER_SIZE * rng.standard_normal(bars)).tolist():
        level = _CLUSTER * level + shock
        levels.append(level)
    factor: Floats = np.exp(np.array(levels))
    return factor


def _on_grid(values: Floats, step: float) -> Floats:
    """Rounded to multiples of `step`, at least one, with the digits a decimal of that step has."""
    digits = max(0, round(-np.log10(step)) + 1)
    return np.round(np.maximum(np.round(values / step), 1.0) * step, digits)


def trading_from_ms(timeframe: str) -> int:
    """Where training ends and the market of a run begins, UTC ms."""
    return START_MS + TRAINING_BARS * timeframe_ms(timeframe)


def write_market(folder: Path, symbols: Sequence[str], timeframe: str) -> Path:
    """Write the market's candle files unless they are there; the folder."""
    for symbol in symbols:
        if not (folder / f"{VENUE}_{symbol}_{timeframe}.parquet").exists():
            market = generate(symbol, timeframe, TRAINING_BARS + TRADING_BARS, START_MS, SEED)
            write_candles(folder, VENUE, symbol, timeframe, market)
    return folder

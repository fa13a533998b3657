"""The 18 features against a computation written another way: pandas and TA-Lib recursions, numpy windows."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import talib
from numpy.lib.stride_tricks import sliding_window_view

from quantum_common.candles import Candles, read_candles
from quantum_common.features import FEATURE_NAMES, batch

ROOT = Path(__file__).parents[4]
DATA_DIR = Path(os.environ.get("QT_DATA_DIR") or ROOT.parent / "shared" / "data")
FILES = sorted(
    path for path in DATA_DIR.rglob("*.parquet") if path.stem.endswith(("m", "h")) and "exchange" not in path.parts
)
TOLERANCE = 1e-9


def synthetic(seed: int, length: int = 4000, price: float = 100.0) -> Candles:
    """A random walk with jumps, dead bars and flat stretches."""
    random = np.random.default_rng(seed)
    returns = random.standard_t(3, length) * 0.01
    returns[random.random(length) < 0.2] = 0.0
    close = price * np.exp(np.cumsum(returns))
    volume = random.exponential(50.0, length)
    volume[random.random(length) < 0.1] = 0.0
    open_ = np.concatenate([[price], close[:-1]])
    ts = np.arange(length, dtype=np.int64) * 60_000
    return Candles(ts, open_, np.maximum(open_, close), np.minimum(open_, close), close, volume)


def windows(values: np.ndarray, length: int) -> np.ndarray:
    """(n, length), the incomplete first ones as NaN."""
    padded = np.concatenate([np.full(length - 1, np.nan), values])
    return sliding_window_view(padded, length)


def ratio_or_zero(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0.0)


def oracle(close: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """(n, 18) of one stretch without a restart."""
    series = pd.Series(close)
    ema = {span: series.ewm(span=span, adjust=False).mean().to_numpy() for span in (10, 12, 20, 26, 50)}
    macd = ema[12] - ema[26]
    middle = windows(close, 20).mean(axis=1)
    reach = 2.0 * windows(close, 20).std(axis=1)
    rsi = talib.RSI(close, 14)
    before = np.concatenate([[0.0], volume[:-1]])
    columns = {
        "rsi": rsi,
        "macd": macd,
        "macd_signal": pd.Series(macd).ewm(span=9, adjust=False).mean().to_numpy(),
        "ema_10": ema[10],
        "ema_20": ema[20],
        "ema_50": ema[50],
        "bb_upper": middle + reach,
        "bb_lower": middle - reach,
        "volume_ma_ratio": ratio_or_zero(volume, windows(volume, 20).mean(axis=1)),
        "volume_change": np.where(before > 0.0, ratio_or_zero(volume - before, before), 0.0),
        "volume_ratio": ratio_or_zero(volume, before),
        "momentum_10": talib.ROCP(close, 10),
        "momentum_20": talib.ROCP(close, 20),
        "ema_10_20_cross": np.where(ema[10] > ema[20], 1.0, 0.0),
        "ema_10_50_cross": np.where(ema[10] > ema[50], 1.0, 0.0),
        "close_to_bb_upper": (middle + reach) / close - 1.0,
        "close_to_bb_lower": 1.0 - (middle - reach) / close,
        "rsi_category": np.select([rsi < 30.0, rsi > 70.0], [0.0, 2.0], 1.0),
    }
    # Where the two sides of a comparison are equal up to rounding, either answer is right.
    columns["ema_10_20_cross"][np.isclose(ema[10], ema[20], rtol=1e-12)] = np.nan
    columns["ema_10_50_cross"][np.isclose(ema[10], ema[50], rtol=1e-12)] = np.nan
    columns["rsi_category"][np.isclose(rsi, 30.0, rtol=1e-11) | np.isclose(rsi, 70.0, rtol=1e-11)] = np.nan
    return np.column_stack([columns[name] for name in FEATURE_NAMES])


def check(candles: Candles, timeframe: str) -> batch.FeatureTable:
    table = batch.compute(candles, timeframe)
    bounds = [*np.flatnonzero(table.bars_since_start == 0).tolist(), len(table)]
    for start, stop in pairwise(bounds):
        warm = table.valid[start:stop]
        if not warm.any():
            continue
        expected = oracle(table.close[start:stop], table_volume(candles, table)[start:stop])[warm]
        got = table.values[start:stop][warm]
        error = np.abs(got - expected) / np.maximum(np.abs(expected), 1.0)
        worst = np.nanmax(error, axis=0)
        assert dict(zip(FEATURE_NAMES, worst, strict=True)) == {
            name: pytest.approx(0, abs=TOLERANCE) for name in FEATURE_NAMES
        }
        assert np.isnan(error).mean() < 0.05
    assert np.isfinite(table.values).all()
    assert np.isfinite(table.log_return).all()
    check_regime(table)
    return table


def table_volume(candles: Candles, table: batch.FeatureTable) -> np.ndarray:
    return candles.volume[table.source_row]


def check_regime(table: batch.FeatureTable) -> None:
    """On the last bars only: 500 comparisons for each of them."""
    rows = np.flatnonzero(table.valid)[-5000:]
    if not len(rows) or table.bars_since_start[rows[-1]] < len(rows) + 600:
        return
    first = rows[0] - 600
    close = table.close[first:]
    log_return = np.diff(np.log(close), prepend=np.nan)
    deviation = windows(log_return, 20).std(axis=1)
    trailing = windows(deviation, 500)
    # Two windows with the same returns in another order differ by rounding: the rank lies between the two readings.
    low = (trailing < deviation[:, None] - 1e-12).mean(axis=1)[600:]
    high = (trailing <= deviation[:, None] + 1e-12).mean(axis=1)[600:]
    got = table.volatility[rows[0] :]
    assert (got > low - 1e-9).all()
    assert (got <= high + 1e-9).all()
    changes = windows(np.abs(np.diff(close, prepend=np.nan)), 20).sum(axis=1)[600:]
    net = (close[20:] - close[:-20])[580:]
    np.testing.assert_allclose(table.trend_strength[rows[0] :], ratio_or_zero(net, changes), atol=TOLERANCE)


@pytest.mark.parametrize("price", [1e-5, 1.0, 60_000.0])
def test_features_equal_an_independent_computation_on_random_candles(price: float) -> None:
    table = check(synthetic(7, price=price), "1m")
    assert table.valid.sum() == 3000


@pytest.mark.skipif(not FILES, reason="shared candles are not here")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_features_equal_an_independent_computation_on_shared_candles(path: Path) -> None:
    venue, symbol, timeframe = path.stem.split("_")
    table = check(read_candles(path.parent, venue, symbol, timeframe), timeframe)
    assert len(table) > 10_000
    assert all(bar.reason for bar in table.refused)

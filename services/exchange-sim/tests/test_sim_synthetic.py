"""The synthetic market: deterministic, sane, and learnable on purpose."""

from __future__ import annotations

import time

import numpy as np
import pytest

from exchange_sim import SimError
from exchange_sim.synthetic import generate
from quantum_common.domain.timeframe import DEFAULT_LABEL_THRESHOLD

START = 1_700_000_000_000 // 3_600_000 * 3_600_000
SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "ADAUSDT")


def test_the_same_arguments_give_the_same_candles_and_another_seed_others():
    first, again, other = (generate("BTCUSDT", "1h", 500, START, seed) for seed in (7, 7, 8))

    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("ts", "close", "volume"))
    assert not np.array_equal(first.close, other.close)
    assert not np.array_equal(first.close, generate("ETHUSDT", "1h", 500, START, 7).close)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_bar_is_a_sane_one(symbol):
    bars = generate(symbol, "1h", 20_000, START, 7)

    assert np.array_equal(bars.ts, START + 3_600_000 * np.arange(20_000))
    assert np.all(bars.low <= np.minimum(bars.open, bars.close))
    assert np.all(bars.high >= np.maximum(bars.open, bars.close))
    assert np.all(bars.low > 0)
    assert np.all(bars.volume > 0)
    assert np.array_equal(bars.open[1:], bars.close[:-1])


@pytest.mark.parametrize("timeframe", ["5m", "1h", "4h"])
def test_about_a_quarter_of_the_bars_move_beyond_the_label_threshold(timeframe):
    shares = []
    for symbol in SYMBOLS:
        close = generate(symbol, timeframe, 20_000, START, 7).close
        shares.append(np.mean(np.abs(close[5:] / close[:-5] - 1) > DEFAULT_LABEL_THRESHOLD[timeframe]))

    assert 0.20 <= np.mean(shares) <= 0.35


def test_after_a_strong_run_the_direction_is_known_on_two_thirds_of_the_bars():
    hits, bars = 0, 0
    for symbol in SYMBOLS:
        close = generate(symbol, "1h", 20_000, START, 7).close
        past = close[20:-5] / close[10:-15] - 1
        ahead = close[25:] / close[20:-5] - 1
        strong = np.abs(past) > 0.045
        hits += int(np.sum(np.sign(past[strong]) * ahead[strong] > 0.015))
        bars += int(np.sum(strong))

    assert bars > 5_000
    assert hits / bars > 0.6


def test_volatility_clusters():
    moves = np.abs(np.diff(np.log(generate("BTCUSDT", "1h", 20_000, START, 7).close)))

    assert np.corrcoef(moves[:-10], moves[10:])[0, 1] > 0.1


def test_a_hundred_thousand_bars_take_less_than_three_seconds():
    started = time.perf_counter()
    for symbol in SYMBOLS:
        generate(symbol, "1h", 20_000, START, 7)
    assert time.perf_counter() - started < 3


def test_no_bars_are_a_usage_error():
    with pytest.raises(SimError, match="at least one"):
        generate("BTCUSDT", "1h", 0, START, 7)

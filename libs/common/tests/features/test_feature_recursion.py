"""Laws of the scalar step: live equals batch, any start gives the same values, nothing is ever NaN or infinite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_common.candles import Candles
from quantum_common.features import (
    FEATURE_NAMES,
    OUTPUT_LENGTH,
    WARMUP_BARS,
    BadState,
    bars_seen,
    batch,
    new_state,
    pack_state,
    recursion,
    step,
    unpack_state,
)
from quantum_common.features.hygiene import PRICE_LIMIT


def candles(close: np.ndarray, volume: np.ndarray) -> Candles:
    ts = np.arange(len(close), dtype=np.int64) * 60_000
    return Candles(ts, close, close, close, close, volume)


def walk(seed: int, length: int) -> Candles:
    random = np.random.default_rng(seed)
    close = np.round(30_000.0 * np.exp(np.cumsum(random.normal(0.0, 0.01, length))), 2)
    return candles(close, np.where(random.random(length) < 0.05, 0.0, np.round(random.exponential(10.0, length), 3)))


def live(bars: Candles, state: list[float] | None = None) -> np.ndarray:
    state = new_state() if state is None else state
    rows = []
    for row in zip(bars.open, bars.high, bars.low, bars.close, bars.volume, strict=True):
        out = [0.0] * OUTPUT_LENGTH
        step(state, *map(float, row), out)
        rows.append(out)
    return np.array(rows)


def named(row: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, row[recursion.VALUES : recursion.VOLATILITY].tolist(), strict=True))


def test_live_and_batch_are_bitwise_equal_from_the_first_bar_on() -> None:
    bars = walk(1, 2500)
    table = batch.compute(bars, "1m")
    rows = live(bars)
    assert rows[:, recursion.VALUES : recursion.VOLATILITY].tobytes() == np.ascontiguousarray(table.values).tobytes()
    assert rows[:, recursion.LOG_RETURN].tobytes() == table.log_return.tobytes()
    assert rows[:, recursion.VOLATILITY].tobytes() == table.volatility.tobytes()
    assert rows[:, recursion.TREND_STRENGTH].tobytes() == table.trend_strength.tobytes()
    assert rows[:, recursion.ZERO_VOLUME].sum() == table.zero_divisions > 0


def test_a_packed_and_unpacked_state_continues_bit_for_bit() -> None:
    bars = walk(2, 1700)
    whole = live(bars)
    for cut in (0, 1, 20, 499, 500, 501, 1234):
        state = new_state()
        live(bars.slice(0, cut), state)
        resumed = unpack_state(pack_state(state))
        assert bars_seen(resumed) == cut
        assert live(bars.slice(cut, None), resumed).tobytes() == whole[cut:].tobytes()


def test_a_state_of_another_length_is_refused() -> None:
    with pytest.raises(BadState):
        unpack_state(pack_state(new_state())[8:])


@pytest.mark.parametrize("start", [1, 7, 20, 333])
def test_f30_after_the_warm_up_every_start_gives_the_same_values(start: int) -> None:
    bars = walk(3, 3000)
    longer = batch.compute(bars, "1m")
    shorter = batch.compute(bars.slice(start, None), "1m")
    compared = np.s_[WARMUP_BARS + start :]
    np.testing.assert_allclose(shorter.values[WARMUP_BARS:], longer.values[compared], rtol=1e-14, atol=1e-12)
    assert shorter.volatility[WARMUP_BARS:].tobytes() == longer.volatility[compared].tobytes()
    assert shorter.trend_strength[WARMUP_BARS:].tobytes() == longer.trend_strength[compared].tobytes()


def test_a_market_where_nothing_moves_or_trades_has_neutral_features() -> None:
    rows = live(candles(np.full(1100, 0.1), np.zeros(1100)))
    last = named(rows[-1])
    assert last["rsi"] == 50.0
    assert last["rsi_category"] == 1.0
    assert last["macd"] == last["momentum_20"] == last["ema_10_20_cross"] == 0.0
    assert last["volume_ma_ratio"] == last["volume_change"] == last["volume_ratio"] == 0.0
    assert last["bb_upper"] == pytest.approx(0.1)
    assert rows[-1][recursion.TREND_STRENGTH] == 0.0
    assert rows[-1][recursion.ZERO_VOLUME] == 3


def test_a_market_without_a_loss_has_rsi_100_and_trend_1() -> None:
    row = live(candles(1.0 + 0.1 * np.arange(60.0), np.ones(60)))[-1]
    assert named(row)["rsi"] == 100.0
    assert named(row)["rsi_category"] == 2.0
    assert row[recursion.TREND_STRENGTH] == pytest.approx(1.0)


def test_a_market_without_a_gain_has_rsi_0_and_trend_minus_1() -> None:
    row = live(candles(10.0 - 0.1 * np.arange(60.0), np.ones(60)))[-1]
    assert named(row)["rsi"] == 0.0
    assert row[recursion.TREND_STRENGTH] == pytest.approx(-1.0)


def test_volume_after_a_bar_without_volume_counts_two_zero_divisions() -> None:
    rows = live(candles(np.full(4, 2.0), np.array([5.0, 0.0, 3.0, 6.0])))
    assert rows[:, recursion.ZERO_VOLUME].tolist() == [0.0, 0.0, 2.0, 0.0]
    assert [named(row)["volume_change"] for row in rows] == [0.0, -1.0, 0.0, 1.0]
    assert named(rows[3])["volume_ma_ratio"] == pytest.approx(6.0 / 3.5)


prices = st.floats(1.0 / PRICE_LIMIT, PRICE_LIMIT, exclude_min=True, exclude_max=True)
volumes = st.just(0.0) | st.floats(1.0 / PRICE_LIMIT, PRICE_LIMIT, exclude_min=True, exclude_max=True)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(prices | st.just(1.0), volumes), min_size=1, max_size=60))
def test_no_sane_bars_ever_give_nan_or_infinity(bars: list[tuple[float, float]]) -> None:
    close, volume = (np.array(column) for column in zip(*bars, strict=True))
    rows = live(candles(close, volume))
    assert np.isfinite(rows).all()
    rsi = rows[:, recursion.VALUES]
    assert ((rsi >= 0.0) & (rsi <= 100.0)).all()
    assert (np.abs(rows[:, recursion.TREND_STRENGTH]) <= 1.0).all()
    assert ((rows[:, recursion.VOLATILITY] > 0.0) & (rows[:, recursion.VOLATILITY] <= 1.0)).all()
    assert live(candles(close, volume)).tobytes() == rows.tobytes()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), min_size=1, max_size=1600))
def test_the_percentile_rank_equals_counting(deviations: list[float]) -> None:
    state = new_state()
    for i, deviation in enumerate(deviations):
        trailing = deviations[max(0, i - 499) : i + 1]
        expected = sum(value <= deviation for value in trailing) / len(trailing)
        assert recursion.rank(state, i, deviation) == expected

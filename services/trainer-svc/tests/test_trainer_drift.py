"""The drift test: silent on ordinary weeks of real markets, and not on a market that changed."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_common.candles import Candles, read_candles
from quantum_common.features import FEATURE_NAMES, batch
from quantum_common.features.views import rows
from trainer_svc.drift import RECENT_ROWS, REFERENCE_ROWS, SAMPLE_EVERY_BARS, Series, compare, drift_of, drift_of_label

HOUR_MS = 3_600_000
FROM_MS, TO_MS = 1_672_531_200_000, 1_751_328_000_000  # 2023-01-01, 2025-07-01
ROWS_BEFORE = RECENT_ROWS + REFERENCE_ROWS
REAL = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "ADAUSDT", "DOGEUSDT", "XRPUSDT", "LTCUSDT")


def filled(series: Series, values: NDArray[np.float64], *, first_row: int = 0, label: str = "") -> Series:
    """One sampled bar per row of `values` (rows, columns), of one symbol."""
    for number, row in enumerate(values, start=first_row):
        series.add(number * SAMPLE_EVERY_BARS * HOUR_MS, HOUR_MS, "BTCUSDT", row.tolist(), label)
    return series


def closed(series: Series) -> Series:
    """A later bar ends the one that was being collected."""
    series.add(10**6 * SAMPLE_EVERY_BARS * HOUR_MS, HOUR_MS, "BTCUSDT", [0.0])
    return series


def test_a_row_is_the_median_over_the_symbols_of_a_sampled_bar() -> None:
    series = Series()
    for symbol, value in (("A", 1.0), ("B", 2.0), ("C", 30.0)):
        series.add(0, HOUR_MS, symbol, [value])
        series.add(5 * HOUR_MS, HOUR_MS, symbol, [99.0])
    assert closed(series).rows == [(2.0,)]


def test_a_value_that_is_no_number_and_a_late_bar_are_left_out() -> None:
    series = Series()
    sampled_ms = SAMPLE_EVERY_BARS * HOUR_MS
    series.add(sampled_ms, HOUR_MS, "A", [1.0])
    series.add(sampled_ms, HOUR_MS, "B", [float("nan")])
    series.add(0, HOUR_MS, "A", [50.0])
    assert closed(series).rows == [(1.0,)]


def test_the_history_is_bounded() -> None:
    series = filled(Series(), np.zeros((500, 1)))
    assert len(series.rows) == len(series.times_ms) == len(series.labels) == RECENT_ROWS + REFERENCE_ROWS


def test_drift_is_unknown_until_there_is_enough_to_compare_with() -> None:
    drift = drift_of(filled(Series(), np.zeros((50, 1))), ["x"])
    assert drift.distance is None
    assert not drift.found


def test_a_shift_is_found_and_its_column_is_named() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(195, 3))
    values[-15:, 1] += 3.0
    drift = drift_of(filled(Series(), values), ["a", "b", "c"])
    assert [column.name for column in drift.columns] == ["b"]
    assert drift.distance == drift.columns[0].distance > 0.8


def test_a_difference_that_is_certain_and_small_is_none() -> None:
    generator = np.random.default_rng(2)
    drift = compare(generator.normal(size=(5_000, 1)), generator.normal(size=(5_000, 1)) + 0.3, ["x"])
    assert not drift.found
    assert 0.0 < (drift.distance or 0.0) < 0.3


def test_the_predictions_of_a_new_version_are_compared_with_those_before_it() -> None:
    generator = np.random.default_rng(3)
    series = filled(Series(), generator.normal(size=(100, 1)), label="v1")
    same = filled(Series(), generator.normal(size=(100, 1)), label="v1")
    filled(series, generator.normal(size=(12, 1)) + 4.0, first_row=100, label="v2")
    filled(same, generator.normal(size=(12, 1)), first_row=100, label="v2")
    assert drift_of_label(series, "v2", ["x"]).found
    assert not drift_of_label(same, "v2", ["x"]).found
    assert drift_of_label(series, "v3", ["x"]).distance is None


def medians(candles: dict[str, Candles]) -> NDArray[np.float64]:
    """(days, 18) medians over the symbols of the relative features of each day's sampled bar, up to `TO_MS`."""
    step_ms = SAMPLE_EVERY_BARS * HOUR_MS
    first_ms = FROM_MS - ROWS_BEFORE * step_ms
    table = np.full((len(candles), (TO_MS - first_ms) // step_ms, len(FEATURE_NAMES)), np.nan)
    for number, bars in enumerate(candles.values()):
        computed = batch.compute(bars, "1h")
        wanted = (computed.ts >= first_ms) & (computed.ts % step_ms == 0) & computed.publishable
        vectors = computed.vectors()[wanted]
        table[number, (computed.ts[wanted] - first_ms) // step_ms] = rows(vectors[:, 2:], vectors[:, 0], "relative")
    known = ~np.isnan(table).all(axis=(0, 2))
    result: NDArray[np.float64] = np.nanmedian(table[:, known], axis=0)
    return result


def weekly(table: NDArray[np.float64]) -> list[bool]:
    """Whether the test fires at the end of each week."""
    return [fires(table[end - ROWS_BEFORE : end]) for end in range(ROWS_BEFORE, len(table), 7)]


def fires(past: NDArray[np.float64]) -> bool:
    return compare(past[:-RECENT_ROWS], past[-RECENT_ROWS:], FEATURE_NAMES).found


def swung(candles: Candles, times: float, last_bars: int) -> Candles:
    """The same market with every return of its last bars so many times as large."""
    changes = np.diff(np.log(candles.close))
    changes[-last_bars:] *= times
    close = candles.close[0] * np.exp(np.concatenate(([0.0], np.cumsum(changes))))
    factor = close / candles.close
    return Candles(
        candles.ts, candles.open * factor, candles.high * factor, candles.low * factor, close, candles.volume
    )


@pytest.fixture(scope="module")
def real() -> dict[str, Candles]:
    folder = Path(os.environ.get("QT_DATA_DIR", "missing"))
    if not (folder / "binance_BTCUSDT_1h.parquet").exists():
        pytest.skip("QT_DATA_DIR has no 1h candles")
    from_ms = FROM_MS - 2 * ROWS_BEFORE * SAMPLE_EVERY_BARS * HOUR_MS
    return {symbol: read_candles(folder, "binance", symbol, "1h").between(from_ms, TO_MS) for symbol in REAL}


def test_in_130_real_weeks_it_fires_a_few_times_and_on_a_planted_shift_each_time(
    real: dict[str, Candles],
) -> None:
    fired = weekly(medians(real))
    assert len(fired) >= 129
    assert 1 <= sum(fired) <= 6
    last_bars = RECENT_ROWS * SAMPLE_EVERY_BARS
    for times in (0.2, 5.0):
        recent = {symbol: bars.slice(-2 * ROWS_BEFORE * SAMPLE_EVERY_BARS, None) for symbol, bars in real.items()}
        planted = medians({symbol: swung(bars, times, last_bars) for symbol, bars in recent.items()})
        assert fires(planted[-ROWS_BEFORE:])

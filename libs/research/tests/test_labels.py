"""Labels look ahead exactly as far as they say, and never across a missing bar."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_research.labels import (
    BUY,
    HOLD,
    NO_LABEL,
    SELL,
    label_end_ms,
    step_labels,
    volatility_thresholds,
)

HOUR_MS = 3_600_000


def hours(bars: int) -> np.ndarray:
    return HOUR_MS * np.arange(bars, dtype=np.int64)


def label(close: list[float], **kwargs: float) -> np.ndarray:
    prices = np.array(close, float)
    return step_labels(hours(len(prices)), prices, bar_ms=HOUR_MS, horizon_bars=5, threshold=kwargs.get("at", 0.015))


def test_the_last_column_is_the_return_over_the_horizon_against_the_threshold() -> None:
    assert label([100, 1, 1, 1, 1, 101.6])[0, -1] == BUY
    assert label([100, 1, 1, 1, 1, 98.4])[0, -1] == SELL
    assert label([100, 1, 1, 1, 1, 101.4])[0, -1] == HOLD
    assert label([64, 1, 1, 1, 1, 80], at=0.25)[0, -1] == HOLD  # exactly at the threshold


def test_an_earlier_step_has_a_threshold_scaled_by_the_root_of_its_share() -> None:
    reach = 0.015 * np.sqrt(1 / 5)
    assert label([100, 100 * (1 + reach + 1e-6), 1, 1, 1, 1])[0, 0] == BUY
    assert label([100, 100 * (1 + reach - 1e-6), 1, 1, 1, 1])[0, 0] == HOLD


def test_f30_a_label_that_spans_a_gap_is_dropped() -> None:
    ts = hours(20)
    ts[10:] += HOUR_MS
    labels = step_labels(ts, np.linspace(100, 120, 20), bar_ms=HOUR_MS, horizon_bars=5, threshold=0.015)
    labelled = np.flatnonzero(labels[:, -1] != NO_LABEL)
    assert labelled.tolist() == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


def test_the_newest_bars_have_no_label() -> None:
    assert (label([100.0] * 9)[:, -1] != NO_LABEL).tolist() == [True] * 4 + [False] * 5
    assert (label([100.0] * 3) == NO_LABEL).all()


@given(st.integers(0, 30), st.integers(0, 2**31))
def test_f30_a_label_depends_on_nothing_after_its_end(row: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(generator.normal(size=40) * 0.01))
    ts = hours(40)
    before = step_labels(ts, close, bar_ms=HOUR_MS, horizon_bars=5, threshold=0.015)
    end = label_end_ms(ts, bar_ms=HOUR_MS, horizon_bars=5)[row]
    close[ts + HOUR_MS > end] *= 3.0
    after = step_labels(ts, close, bar_ms=HOUR_MS, horizon_bars=5, threshold=0.015)
    assert (before[row] == after[row]).all()


def test_a_threshold_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        label([1.0] * 9, at=0.0)


def test_a_threshold_by_volatility_makes_the_classes_as_frequent_in_calm_as_in_wild_markets() -> None:
    wild = np.repeat([1.0, 10.0], 4000)
    log_return = np.random.default_rng(3).normal(0, 0.001, 8000) * wild
    close = np.exp(np.cumsum(log_return))
    thresholds = volatility_thresholds(log_return, horizon_bars=5, multiple=1.0)
    assert thresholds[100] == pytest.approx(np.sqrt(5) * log_return[81:101].std())
    scaled = step_labels(hours(8000), close, bar_ms=HOUR_MS, horizon_bars=5, threshold=thresholds)[:, -1]
    fixed = step_labels(hours(8000), close, bar_ms=HOUR_MS, horizon_bars=5, threshold=0.01)[:, -1]
    assert (scaled[:19] == NO_LABEL).all()  # no deviation yet
    shares = [
        (labels[part] == HOLD).mean() for labels in (scaled, fixed) for part in (slice(19, 3900), slice(4100, -5))
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)
    assert shares[2] - shares[3] > 0.5


def test_f30_a_threshold_by_volatility_knows_nothing_later_than_its_bar() -> None:
    log_return = np.random.default_rng(4).normal(0, 0.001, 300)
    other = log_return.copy()
    other[200:] *= 5.0
    one, two = (volatility_thresholds(each, horizon_bars=5, multiple=1.0) for each in (log_return, other))
    assert (one[:200] == two[:200]).all()
    assert (one[200:] != two[200:]).all()

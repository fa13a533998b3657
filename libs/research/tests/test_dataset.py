"""Rows, views and windows of the training table are those of serving."""

import numpy as np
import pytest

from quantum_common.candles import Candles
from quantum_common.features import WARMUP_BARS, views
from quantum_research import TooLittleData
from quantum_research.dataset import build_dataset
from quantum_research.testing import HOUR_MS, synthetic_candles, synthetic_dataset

FIRST_ROW = WARMUP_BARS + 63


def test_rows_start_after_warm_up_and_window_and_end_where_labels_end() -> None:
    candles = synthetic_candles(FIRST_ROW + 100, seed=1)
    data = build_dataset({"A": candles}, "1h", horizon_bars=5, threshold=0.015)
    assert data.ts_ms[0] == candles.ts[FIRST_ROW]
    assert data.ts_ms[-1] == candles.ts[-6]
    assert data.label_end_ms.max() == candles.ts[-1] + HOUR_MS


def test_rows_of_all_symbols_are_in_order_of_time() -> None:
    data = synthetic_dataset(rows_per_symbol=50, symbols=3)
    assert len(data) == 150
    assert (np.diff(data.ts_ms) >= 0).all()


def test_every_row_knows_its_symbol_and_what_the_close_did_over_the_horizon() -> None:
    candles = {name: synthetic_candles(FIRST_ROW + 60, seed) for seed, name in enumerate(("B", "A"))}
    data = build_dataset(candles, "1h", horizon_bars=5, threshold=0.015)
    assert data.symbols == ("A", "B")
    for number, name in enumerate(data.symbols):
        mine = data.take(np.flatnonzero(data.symbol == number))
        close = dict(zip(candles[name].ts.tolist(), candles[name].close.tolist(), strict=True))
        expected = [close[ts + 5 * HOUR_MS] / close[ts] - 1.0 for ts in mine.ts_ms.tolist()]
        assert mine.change.tolist() == expected
        assert ((mine.change > 0.015) == (mine.label == 2)).all()


def test_f07_training_windows_are_bit_for_bit_those_of_serving() -> None:
    data = synthetic_dataset(rows_per_symbol=40)
    gathered = data.bars("relative")[data.window_places()]
    assert gathered.tobytes() == data.windows("relative").tobytes()
    last = data.vectors[data.bar]
    assert data.rows("relative").tobytes() == views.rows(last[:, 2:], last[:, 0], "relative").tobytes()
    assert (data.windows("relative")[:, -1, 1:] == data.rows("relative")).all()


def test_f30_rows_do_not_depend_on_where_the_history_starts() -> None:
    candles = synthetic_candles(FIRST_ROW + 700, seed=3)
    whole = build_dataset({"A": candles}, "1h", horizon_bars=5, threshold=0.015)
    late = build_dataset({"A": candles.slice(500, None)}, "1h", horizon_bars=5, threshold=0.015)
    assert late.rows("relative") == pytest.approx(whole.rows("relative")[-len(late) :], abs=1e-6)
    assert (late.labels == whole.labels[-len(late) :]).all()


def test_f30_no_row_changes_when_later_candles_do() -> None:
    candles = synthetic_candles(FIRST_ROW + 200, seed=4)
    cut = FIRST_ROW + 100
    changed = Candles(
        candles.ts,
        *(
            np.where(np.arange(len(candles)) < cut, getattr(candles, name), getattr(candles, name) * 2.0)
            for name in ("open", "high", "low", "close", "volume")
        ),
    )
    before = build_dataset({"A": candles}, "1h", horizon_bars=5, threshold=0.015)
    after = build_dataset({"A": changed}, "1h", horizon_bars=5, threshold=0.015)
    known = before.label_end_ms <= candles.ts[cut]
    assert 90 < known.sum() < len(before)
    assert (before.windows("relative")[known] == after.windows("relative")[known]).all()
    assert (before.labels[known] == after.labels[known]).all()


def test_rows_begin_at_from_and_warm_up_comes_from_the_bars_before_it() -> None:
    candles = synthetic_candles(FIRST_ROW + 200, seed=5)
    from_ms = int(candles.ts[FIRST_ROW + 50])
    data = build_dataset({"A": candles}, "1h", horizon_bars=5, threshold=0.015, from_ms=from_ms)
    assert data.ts_ms[0] == from_ms


def test_a_history_shorter_than_the_warm_up_is_refused() -> None:
    with pytest.raises(TooLittleData, match="warm-up"):
        build_dataset({"A": synthetic_candles(800, seed=1)}, "1h", horizon_bars=5, threshold=0.015)


def test_a_part_without_a_class_is_refused() -> None:
    calm = build_dataset({"A": synthetic_candles(FIRST_ROW + 50, seed=1)}, "1h", horizon_bars=5, threshold=5.0)
    with pytest.raises(TooLittleData, match="threshold"):
        calm.class_shares()

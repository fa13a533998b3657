"""Batch tables: gaps, restarts, refused bars, views, vectors and the hash."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_common.candles import Candles
from quantum_common.features import (
    FEATURE_NAMES,
    SEQUENCE_BARS,
    VIEWS,
    WARMUP_BARS,
    batch,
    feature_hash,
    hygiene,
    pack_vector,
    unpack_vectors,
    views,
)

MINUTE = 60_000


def walk(seed: int, length: int) -> Candles:
    random = np.random.default_rng(seed)
    close = 50.0 * np.exp(np.cumsum(random.normal(0.0, 0.01, length)))
    ts = np.arange(length, dtype=np.int64) * MINUTE
    return Candles(ts, close, close, close, close, random.exponential(10.0, length))


def without(bars: Candles, start: int, stop: int) -> Candles:
    return taken(bars, np.r_[0:start, stop : len(bars)])


def taken(bars: Candles, rows: np.ndarray) -> Candles:
    return Candles(*(getattr(bars, name)[rows] for name in ("ts", "open", "high", "low", "close", "volume")))


def test_24_missing_bars_are_stepped_over_and_counted() -> None:
    bars = without(walk(1, 2000), 1500, 1524)
    table = batch.compute(bars, "1m")
    assert table.gap_bars[1500] == 24
    assert table.gap_bars.sum() == 24
    assert table.valid[1000:].all()
    together = Candles(
        np.arange(len(bars), dtype=np.int64) * MINUTE,
        *(getattr(bars, n) for n in ("open", "high", "low", "close", "volume")),
    )
    assert table.values.tobytes() == batch.compute(together, "1m").values.tobytes()


def test_25_missing_bars_start_the_warm_up_again() -> None:
    bars = without(walk(1, 3000), 1500, 1525)
    table = batch.compute(bars, "1m")
    assert table.gap_bars[1500] == 25
    assert table.bars_since_start[1499] == 1499
    assert table.bars_since_start[1500] == 0
    assert table.valid[1000:1500].all()
    assert not table.valid[1500:2500].any()
    alone = batch.compute(bars.slice(1500, None), "1m")
    assert table.values[1500:].tobytes() == alone.values.tobytes()
    assert table.publishable.tolist() == [i >= 1063 and not 1500 <= i < 2563 for i in range(len(table))]


def test_rows_are_publishable_once_a_whole_window_is_valid() -> None:
    table = batch.compute(walk(2, 1200), "1m")
    assert np.flatnonzero(table.valid)[0] == WARMUP_BARS
    assert np.flatnonzero(table.publishable)[0] == WARMUP_BARS + SEQUENCE_BARS - 1


def test_no_bars_give_an_empty_table() -> None:
    assert len(batch.compute(walk(1, 3).slice(0, 0), "1m")) == 0


def test_repeated_unsorted_and_insane_bars_change_nothing_for_the_others() -> None:
    bars = walk(3, 1500)
    clean = batch.compute(bars, "1m")
    order = np.random.default_rng(0).permutation(np.r_[0:1500, 10:20])
    messy = taken(bars, order)
    insane = Candles(
        *(
            np.append(getattr(messy, n), v)
            for n, v in (("ts", 90), ("open", 1.0), ("high", 1.0), ("low", 1.0), ("close", 1.0), ("volume", 1.0))
        )
    )
    table = batch.compute(insane, "1m")
    assert table.duplicates == 10
    assert [refused.reason for refused in table.refused] == ["ts_off_grid"]
    assert table.values.tobytes() == clean.values.tobytes()
    assert (messy.ts[table.source_row] == clean.ts).all()


numbers = st.sampled_from([1.0, 2.0, 3.0, 0.0, -1.0, 1e16, 1e-16, float("nan"), float("inf")])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 60_000, 120_000, 7]), numbers, numbers, numbers, numbers, numbers), max_size=8
    )
)
def test_batch_and_live_hygiene_agree(rows: list[tuple[float, ...]]) -> None:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    bars = Candles(np.array(columns[0], np.int64), *(np.array(column, np.float64) for column in columns[1:]))
    kept, refused, duplicates = batch.usable(bars, MINUTE)
    sifted = hygiene.sift(rows, bar_ms=MINUTE, last_ts=None)
    assert [bar.ts for bar in sifted.bars] == bars.ts[kept].tolist()
    assert [bar.close for bar in sifted.bars] == bars.close[kept].tolist()
    assert [bar.reason for bar in sifted.refused] == [bar.reason for bar in refused]
    assert sifted.duplicates == duplicates


def test_the_relative_view_is_free_of_the_price_scale() -> None:
    bars = walk(4, 1300)
    scaled = Candles(bars.ts, bars.open * 1000, bars.high * 1000, bars.low * 1000, bars.close * 1000, bars.volume * 3)
    one, other = batch.compute(bars, "1m"), batch.compute(scaled, "1m")
    np.testing.assert_allclose(
        views.relative(one.values, one.close)[30:], views.relative(other.values, other.close)[30:], rtol=1e-9, atol=1e-9
    )


def test_the_relative_view_follows_its_definition() -> None:
    raw = np.arange(1.0, 19.0)[None, :].copy()
    raw[0, 8:11] = [49.0, 51.0, 1e9]
    got = views.relative(raw, np.array([2.0]))[0]
    assert got.tolist() == [1, 1, 1.5, 1, 1.5, 2, 2.5, 3, 49, 50, 50, 12, 13, 14, 15, 16, 17, 18]
    assert raw[0, 10] == 1e9


def test_a_sequence_is_the_log_return_and_the_rows_of_its_bars() -> None:
    table = batch.compute(walk(5, 1200), "1m")
    stored = table.vectors()
    assert stored.shape == (1200, 20)
    for name in VIEWS:
        windows = np.stack([stored[1000:1064], stored[1001:1065]])
        got = views.sequence(windows, name)
        assert got.shape == (2, 64, 19)
        assert got.dtype == np.float32
        assert (got[0, :, 1:] == views.rows(table.values[1000:1064], table.close[1000:1064], name)).all()
        assert (got[1, :, 0] == table.log_return[1001:1065].astype(np.float32)).all()


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(ValueError, match="relative"):
        views.rows(np.zeros((1, 18)), np.ones(1), "log")
    with pytest.raises(ValueError, match="relative"):
        feature_hash("log")


def test_f07_the_hash_tells_apart_view_warm_up_parameters_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from quantum_common.features import definition

    hashes = {feature_hash("raw"), feature_hash("relative"), feature_hash("raw", warmup_bars=999)}
    monkeypatch.setattr(definition, "RSI_BARS", 15)
    hashes.add(feature_hash("raw"))
    monkeypatch.setattr(definition, "FEATURE_NAMES", FEATURE_NAMES[::-1])
    hashes.add(feature_hash("raw"))
    assert len(hashes) == 5


def test_packed_vectors_come_back_with_their_bar_times() -> None:
    table = batch.compute(walk(6, 1100), "1m")
    stored = table.vectors()[-64:]
    packed = [
        pack_vector(int(ts), float(vector[0]), vector[1:].tolist())
        for ts, vector in zip(table.ts[-64:], stored, strict=True)
    ]
    ts, vectors = unpack_vectors(packed)
    assert ts.tolist() == table.ts[-64:].tolist()
    assert vectors.tobytes() == stored.tobytes()
    assert unpack_vectors([])[1].shape == (0, 20)

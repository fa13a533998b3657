"""No label of the past may see the future: purge and embargo."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_research import TooLittleData
from quantum_research.splits import hold_out_blocks, split_at, walk_forward

HORIZON = 5


def rows_of(symbols: int, bars: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bars one millisecond apart, sorted by time over all symbols."""
    ts = np.repeat(np.arange(bars, dtype=np.int64), symbols)
    return np.arange(len(ts)), ts, ts + HORIZON + 1


@given(
    symbols=st.integers(1, 3),
    bars=st.integers(100, 300),
    folds=st.integers(1, 5),
    embargo=st.integers(0, 10),
    first=st.floats(0.3, 0.7),
)
def test_f30_every_past_label_ends_the_embargo_before_its_future_begins(
    symbols: int, bars: int, folds: int, embargo: int, first: float
) -> None:
    rows, ts, end = rows_of(symbols, bars)
    splits = walk_forward(rows, ts, end, folds=folds, first_share=first, embargo_ms=embargo)
    assert len(splits) == folds
    for split in splits:
        assert end[split.past].max() + embargo <= ts[split.future].min()
    tested = np.concatenate([split.future for split in splits])
    assert tested.tolist() == rows[ts >= ts[tested[0]]].tolist()


@given(st.integers(150, 400), st.floats(0.1, 0.3), st.integers(1, 6), st.integers(0, 10), st.integers(HORIZON, 12))
def test_f30_blocks_that_are_held_out_share_no_label_and_no_input_with_the_rest(
    bars: int, share: float, blocks: int, embargo: int, reach: int
) -> None:
    rows, ts, end = rows_of(2, bars)
    split = hold_out_blocks(rows, ts, end, share=share, blocks=blocks, embargo_ms=embargo, reach_ms=reach)
    past, future = ts[split.past], np.unique(ts[split.future])
    starts = future[np.diff(future, prepend=-2) > 1]
    assert len(starts) == blocks
    assert future[-1] == bars - 1
    for opens in starts:
        closes = future[future >= opens][np.argmin(np.diff(future[future >= opens], append=bars + 1) == 1)]
        before, after = past[past < opens], past[past > closes]
        assert (before + HORIZON + 1 <= opens - embargo).all()
        assert (after > closes + reach).all()
        assert not ((past >= opens) & (past <= closes)).any()


def test_f30_symbols_are_split_at_the_same_time_even_when_their_histories_differ() -> None:
    ts = np.concatenate([np.arange(0, 100), np.arange(60, 100)]).astype(np.int64)
    split = split_at(np.arange(140), ts, ts + 6, border_ms=80, embargo_ms=0)
    assert ts[split.past].max() == 74
    assert ts[split.future].min() == 80


def test_f30_a_model_that_memorises_times_gains_nothing_across_a_purged_border() -> None:
    """The planted leak: a row's label overlaps its neighbour's, so a memory of neighbours knows the near future."""
    walk = np.cumsum(np.random.default_rng(5).normal(size=40_000))
    up = (walk[HORIZON:] > walk[:-HORIZON]).astype(int)
    rows, ts, end = np.arange(len(up)), np.arange(len(up), dtype=np.int64), np.arange(len(up)) + HORIZON

    def accuracy_on_the_first_test_row(embargo_ms: int) -> float:
        hits = []
        for border in range(50, len(up) - 10, 20):
            split = split_at(rows, ts, end, border_ms=border, embargo_ms=embargo_ms)
            hits.append(up[split.past[-1]] == up[split.future[0]])
        return float(np.mean(hits))

    assert accuracy_on_the_first_test_row(0) == pytest.approx(0.5, abs=0.04)
    assert accuracy_on_the_first_test_row(-HORIZON + 1) > 0.7  # what an unpurged border gives away


def test_too_few_bars_are_named_instead_of_giving_an_empty_part() -> None:
    rows, ts, end = rows_of(1, 6)
    with pytest.raises(TooLittleData):
        walk_forward(rows, ts, end, folds=3, first_share=0.4, embargo_ms=0)
    with pytest.raises(TooLittleData):
        hold_out_blocks(rows, ts, end, share=0.9, blocks=12, embargo_ms=0, reach_ms=0)
    with pytest.raises(TooLittleData):
        hold_out_blocks(rows, ts, end, share=0.9, blocks=1, embargo_ms=0, reach_ms=6)

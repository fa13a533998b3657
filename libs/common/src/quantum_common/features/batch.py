"""Features over whole histories: the source of `recursion`, compiled by numba (extra `batch`). Bitwise equal to live.

No fastmath: it would let the compiler reorder sums and fuse operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from quantum_common.candles import Candles
from quantum_common.domain.timeframe import timeframe_ms
from quantum_common.features import hygiene, recursion, views
from quantum_common.features.definition import LONGEST_STEPPED_GAP_BARS, SEQUENCE_BARS, WARMUP_BARS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Features of the usable bars of one symbol, oldest first; row i uses bars closing ≤ i's close."""

    ts: Integers
    """(n,) open time, UTC ms."""
    close: Floats
    log_return: Floats
    values: Floats
    """(n, 18) raw."""
    volatility: Floats
    trend_strength: Floats
    gap_bars: Integers
    """Bars missing right before this one."""
    bars_since_start: Integers
    """0 for the first bar of the history and for the first after a gap too long to step over."""
    valid: NDArray[np.bool_]
    """Warm: bars_since_start ≥ warm-up. Nothing else is trained on or used in a window."""
    publishable: NDArray[np.bool_]
    """A whole window of valid rows ends here, none across a restart: the rows that the live service publishes."""
    source_row: Integers
    """Row of the candles given to `compute`."""
    refused: tuple[hygiene.Refused, ...]
    duplicates: int
    zero_divisions: int
    """Features set to 0 because the volume they divide by is 0."""

    def __len__(self) -> int:
        return len(self.ts)

    def vectors(self) -> Floats:
        """(n, 20) stored vectors: close, log return, 18 raw features."""
        return views.vectors(self.close, self.log_return, self.values)


def compute(candles: Candles, timeframe: str, *, warmup_bars: int = WARMUP_BARS) -> FeatureTable:
    """The features that live publishes for these candles, whatever their order; refused bars carry their reasons.

    Gaps of up to 24 missing bars are stepped over; after a longer one the state is new and the warm-up starts again.
    """
    bar_ms = timeframe_ms(timeframe)
    source_row, refused, duplicates = usable(candles, bar_ms)
    ts, open_, high, low, close, volume = (
        np.ascontiguousarray(getattr(candles, name)[source_row])
        for name in ("ts", "open", "high", "low", "close", "volume")
    )
    gap_bars = np.zeros(len(ts), np.int64)
    gap_bars[1:] = np.diff(ts) // bar_ms - 1
    out = np.empty((len(ts), recursion.OUTPUT_LENGTH))
    _compiled("step")(open_, high, low, close, volume, gap_bars, out)
    starts = gap_bars > LONGEST_STEPPED_GAP_BARS
    starts[:1] = True
    index = np.arange(len(ts), dtype=np.int64)
    bars_since_start = index - np.maximum.accumulate(np.where(starts, index, 0))
    return FeatureTable(
        ts=ts,
        close=close,
        log_return=out[:, recursion.LOG_RETURN],
        values=out[:, recursion.VALUES : recursion.VOLATILITY],
        volatility=out[:, recursion.VOLATILITY],
        trend_strength=out[:, recursion.TREND_STRENGTH],
        gap_bars=gap_bars,
        bars_since_start=bars_since_start,
        valid=bars_since_start >= warmup_bars,
        publishable=bars_since_start >= warmup_bars + SEQUENCE_BARS - 1,
        source_row=source_row,
        refused=refused,
        duplicates=duplicates,
        zero_divisions=int(out[:, recursion.ZERO_VOLUME].sum()),
    )


def usable(candles: Candles, bar_ms: int) -> tuple[Integers, tuple[hygiene.Refused, ...], int]:
    """Rows that pass `hygiene.refusal`, by time and without repetitions; the refused ones; the repetitions."""
    prices = np.stack([candles.open, candles.high, candles.low, candles.close])
    limit = hygiene.PRICE_LIMIT
    with np.errstate(invalid="ignore"):
        sane = ((prices > 1.0 / limit) & (prices < limit)).all(axis=0)
        sane &= (candles.volume == 0.0) | ((candles.volume > 1.0 / limit) & (candles.volume < limit))
        sane &= (prices >= candles.low).all(axis=0) & (prices <= candles.high).all(axis=0)
    sane &= candles.ts % bar_ms == 0
    refused = [
        hygiene.Refused(bar, reason)
        for bar in (_bar(candles, row) for row in np.flatnonzero(~sane).tolist())
        if (reason := hygiene.refusal(bar, bar_ms))
    ]
    rows = np.flatnonzero(sane)
    rows = rows[np.argsort(candles.ts[rows], kind="stable")]
    first = np.ones(len(rows), bool)
    first[1:] = np.diff(candles.ts[rows]) != 0
    return rows[first].astype(np.int64), tuple(refused), int((~first).sum())


def _bar(candles: Candles, row: int) -> hygiene.Bar:
    return hygiene.Bar(
        int(candles.ts[row]),
        float(candles.open[row]),
        float(candles.high[row]),
        float(candles.low[row]),
        float(candles.close[row]),
        float(candles.volume[row]),
    )


@numba.njit  # type: ignore[untyped-decorator]
def _move(state: Floats, start: int, stop: int, by: int) -> None:
    """`recursion._move` without a temporary copy: no arithmetic, the same values end in the same places."""
    if by < 0:
        for i in range(start, stop):
            state[i + by] = state[i]
    else:
        for i in range(stop - 1, start - 1, -1):
            state[i + by] = state[i]


@lru_cache(maxsize=2)
def _compiled(name: str) -> Callable[..., None]:
    """A compiled loop over `step` or, for the benchmark, `feature_step`."""
    compiled: dict[str, Any] = {"_move": _move}
    for part in ("_place", "rank", "volatility_step", "feature_step", "step"):
        source = getattr(recursion, part)
        # numba resolves a callee among the globals: give it the compiled one.
        linked = FunctionType(source.__code__, {**source.__globals__, **compiled}, part)
        compiled[part] = numba.njit(linked)
    step = compiled[name]
    longest = LONGEST_STEPPED_GAP_BARS
    state_length = recursion.STATE_LENGTH

    @numba.njit  # type: ignore[untyped-decorator]
    def run(
        open_: Floats, high: Floats, low: Floats, close: Floats, volume: Floats, gap_bars: Integers, out: Floats
    ) -> None:
        state = np.zeros(state_length)
        for i in range(len(close)):
            if gap_bars[i] > longest:
                state[:] = 0.0
            step(state, open_[i], high[i], low[i], close[i], volume[i], out[i])

    return run  # type: ignore[no-any-return]

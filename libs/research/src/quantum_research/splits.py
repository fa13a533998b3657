"""Splits by time over all symbols at once: purged of labels that reach over the border, with an embargo before it.

Source: López de Prado (2018), Advances in Financial Machine Learning, chapter 7; here only the past trains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantum_research import TooLittleData

Rows = NDArray[np.intp]
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers. Every label of `past` ends at least the embargo before the first bar of `future` opens."""

    past: Rows
    future: Rows


def split_at(rows: Rows, ts_ms: Times, label_end: Times, *, border_ms: int, embargo_ms: int) -> Split:
    """Rows on both sides of `border_ms`; what reaches over it is in neither part."""
    future = rows[ts_ms[rows] >= border_ms]
    past = rows[label_end[rows] <= border_ms - embargo_ms]
    if not len(past) or not len(future):
        raise TooLittleData("too few bars to split: use a longer range or more symbols")
    return Split(past, future)


def hold_out_tail(rows: Rows, ts_ms: Times, label_end: Times, *, share: float, embargo_ms: int) -> Split:
    """The newest `share` of the bar times in `rows` as future, the purged rest as past."""
    times = np.unique(ts_ms[rows])
    if not len(times):
        raise TooLittleData("no rows to split: use a longer range or more symbols")
    border = times[min(int(len(times) * (1.0 - share)), len(times) - 1)]
    return split_at(rows, ts_ms, label_end, border_ms=int(border), embargo_ms=embargo_ms)


def walk_forward(
    rows: Rows, ts_ms: Times, label_end: Times, *, folds: int, first_share: float, embargo_ms: int
) -> list[Split]:
    """Expanding walk-forward: the first `first_share` of the bar times only trains, the rest is tested in `folds`.

    Each row after the first share is in exactly one future, in order of time.
    """
    times = np.unique(ts_ms[rows])
    if len(times) < 2 * (folds + 1):
        raise TooLittleData("too few bars for a walk-forward: use a longer range or more symbols")
    edges = np.linspace(len(times) * first_share, len(times), folds + 1).astype(int)
    borders = [int(times[edge]) for edge in edges[:-1]]
    after = [*borders[1:], int(times[-1]) + 1]
    splits = []
    for border, end in zip(borders, after, strict=True):
        known = rows[ts_ms[rows] < end]
        splits.append(split_at(known, ts_ms, label_end, border_ms=border, embargo_ms=embargo_ms))
    return splits

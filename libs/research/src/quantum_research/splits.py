"""Splits by time over all symbols at once: purged of labels that reach over the border, with an embargo before it.

Source: López de Prado (2018), Advances in Financial Machine Learning, chapter 7; here only the past trains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantum_research import TooLittleData

HELD_OUT_SHARE = 0.12
HELD_OUT_BLOCKS = 12
"""Measured on 1h bars: one tail is one mood of the market, and calibrated on it the models lost to the next."""
PURGED_SHARE = 0.1
"""Fewer blocks where more than this would be lost beside them."""

Rows = NDArray[np.intp]
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers. No label of `past` reaches into `future`."""

    past: Rows
    future: Rows


def split_at(rows: Rows, ts_ms: Times, label_end: Times, *, border_ms: int, embargo_ms: int) -> Split:
    """Rows on both sides of `border_ms`; what reaches over it is in neither part."""
    future = rows[ts_ms[rows] >= border_ms]
    past = rows[label_end[rows] <= border_ms - embargo_ms]
    if not len(past) or not len(future):
        raise TooLittleData("too few bars to split: use a longer range or more symbols")
    return Split(past, future)


def hold_out_blocks(
    rows: Rows, ts_ms: Times, label_end: Times, *, share: float, blocks: int, embargo_ms: int, reach_ms: int
) -> Split:
    """`share` of the bar times as `future`, spread over the whole range in `blocks` pieces; the rest is `past`.

    The range is cut into equal parts, and the newest `share` of each is held out, so every mood of the market is in it
    (measured against one tail: docs/decisions/0012). Purged on both sides: a label of `past` ends `embargo_ms` before a
    block opens, or its bar opens more than `reach_ms` after the block: give the longest label and window together.
    """
    times = np.unique(ts_ms[rows])
    part = len(times) // blocks
    length = int(part * share)
    if length < 1:
        raise TooLittleData("too few bars to hold some out: use a longer range")
    held_out, near = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    for number in range(1, blocks + 1):
        last = len(times) - 1 if number == blocks else number * part - 1
        opens, closes = times[last + 1 - length], times[last]
        held_out |= (ts_ms[rows] >= opens) & (ts_ms[rows] <= closes)
        near |= (label_end[rows] > opens - embargo_ms) & (ts_ms[rows] <= closes + reach_ms)
    if near.all():
        raise TooLittleData("nothing is left to train on beside the held-out bars: use a longer range")
    return Split(rows[~near], rows[held_out])


def calibration_split(rows: Rows, ts_ms: Times, label_end: Times, *, embargo_ms: int, window_bars: int) -> Split:
    """What a model is fitted on, and the blocks that it is stopped and calibrated on; nothing reaches from one into the
    other, neither a label nor a window of `window_bars` (0: inputs that no bars are shared by)."""
    times = np.unique(ts_ms[rows])
    if len(times) < 2:
        raise TooLittleData("too few bars to hold some out: use a longer range")
    bar_ms, label_ms = int(np.diff(times).min()), int((label_end - ts_ms)[rows].max())
    reach_ms = window_bars * bar_ms + label_ms - bar_ms
    lost_ms = label_ms + embargo_ms + reach_ms
    return hold_out_blocks(
        rows,
        ts_ms,
        label_end,
        share=HELD_OUT_SHARE,
        blocks=max(1, min(HELD_OUT_BLOCKS, int(len(times) * bar_ms * PURGED_SHARE) // lost_ms)),
        embargo_ms=embargo_ms,
        reach_ms=reach_ms,
    )


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

"""Labels: what the close did over the next bars. They look ahead by design, so each one says how far."""

from __future__ import annotations

from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SELL, HOLD, BUY = 0, 1, 2
NO_LABEL = -1

LabelScaling = Literal["fixed", "volatility"]
"""`volatility`: the threshold is a multiple of what the close is expected to move, see `volatility_thresholds`."""
DEFAULT_VOLATILITY_MULTIPLE = 1.0
_DEVIATION_BARS = 20


def step_labels(
    ts_ms: NDArray[np.int64],
    close: NDArray[np.float64],
    *,
    bar_ms: int,
    horizon_bars: int,
    threshold: float | NDArray[np.float64],
) -> NDArray[np.int8]:
    """Classes after 1..horizon_bars bars, shape (bars, horizon_bars); the last column is the label.

    Step k is BUY when close[t+k] / close[t] − 1 > threshold · sqrt(k / horizon_bars) (a fraction), SELL below its
    negative, else HOLD: a random walk's deviation grows with the root of time, so the classes stay alike. Row t uses
    bars t..t+horizon_bars. It is NO_LABEL throughout when that span leaves the data or a bar is missing in it, and
    where a `threshold` per bar is not above 0: nothing moved.
    """
    if horizon_bars < 1 or (np.ndim(threshold) == 0 and not threshold > 0.0):
        raise ValueError("horizon_bars must be at least 1 and threshold above 0")
    thresholds = np.broadcast_to(threshold, close.shape)
    labels = np.full((len(close), horizon_bars), NO_LABEL, dtype=np.int8)
    labelled = len(close) - horizon_bars
    if labelled <= 0:
        return labels
    whole = (ts_ms[horizon_bars:] - ts_ms[:labelled] == horizon_bars * bar_ms) & (thresholds[:labelled] > 0.0)
    for step in range(1, horizon_bars + 1):
        change = close[step : step + labelled] / close[:labelled] - 1.0
        reach = thresholds[:labelled] * sqrt(step / horizon_bars)
        classes = np.where(change > reach, BUY, np.where(change < -reach, SELL, HOLD))
        labels[:labelled, step - 1] = np.where(whole, classes, NO_LABEL)
    return labels


def label_end_ms(ts_ms: NDArray[np.int64], *, bar_ms: int, horizon_bars: int) -> NDArray[np.int64]:
    """Close of the last bar that the label of the bar opening at ts uses (UTC ms)."""
    return ts_ms + (horizon_bars + 1) * bar_ms


def volatility_thresholds(
    log_return: NDArray[np.float64], *, horizon_bars: int, multiple: float
) -> NDArray[np.float64]:
    """A fraction per bar: multiple · σ · sqrt(horizon), σ that of the last 20 log returns (bars closing ≤ t).

    So the classes are as frequent in a calm year as in a wild one, and a model cannot gain by knowing which it is.
    Source: López de Prado (2018), chapter 3. The first 19 bars have none (0).
    """
    if len(log_return) < _DEVIATION_BARS:
        return np.zeros(len(log_return))
    deviation = np.lib.stride_tricks.sliding_window_view(log_return, _DEVIATION_BARS).std(axis=1)
    known: NDArray[np.float64] = np.concatenate([np.zeros(_DEVIATION_BARS - 1), deviation])
    return multiple * sqrt(horizon_bars) * known

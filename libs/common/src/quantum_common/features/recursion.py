"""One bar of one symbol: the 18 features and the regime, as float64 recursions over an explicit flat state.

The source below runs twice: as Python over a list (live) and compiled by numba over an array (`batch`), bit for bit
the same. So it uses only scalars, slices and plain loops, no built-in that sums (Python's own compensates rounding
since 3.12), and adds every window from its oldest bar to its newest. Windowed sums are recomputed, never running:
running ones depend on where they started. Sources: Wilder (1978) for RSI; Kaufman (1995) for the efficiency ratio.
"""

from __future__ import annotations

from array import array
from collections.abc import MutableSequence
from math import log, sqrt

from quantum_common import QuantumError
from quantum_common.features.definition import (
    BAND_WIDTH,
    EMA_FAST,
    EMA_MIDDLE,
    EMA_SLOW,
    FEATURE_COUNT,
    MACD_FAST,
    MACD_SIGNAL,
    MACD_SLOW,
    MOMENTUM_LONG_BARS,
    MOMENTUM_SHORT_BARS,
    RANK_BARS,
    RSI_BARS,
    RSI_HIGH,
    RSI_LOW,
    WINDOW_BARS,
)

# Places in the output.
LOG_RETURN = 0
VALUES = 1
VOLATILITY = VALUES + FEATURE_COUNT
TREND_STRENGTH = VOLATILITY + 1
ZERO_VOLUME = TREND_STRENGTH + 1
"""Features of this bar that are 0 because the volume they divide by is."""
OUTPUT_LENGTH = ZERO_VOLUME + 1

# Places in the state. A ring is written twice, one ring length apart, so that its last bars are one ordered slice.
COUNT = 0
_VOLUME = 1
_GAIN, _LOSS = 2, 3
_EMA_10, _EMA_12, _EMA_20, _EMA_26, _EMA_50, _SIGNAL = 4, 5, 6, 7, 8, 9
_RING = WINDOW_BARS + 1
_CLOSES = 10
_VOLUMES = _CLOSES + 2 * _RING
_RETURNS = _VOLUMES + 2 * _RING
_DEVIATIONS = _RETURNS + 2 * _RING
_SORTED = _DEVIATIONS + RANK_BARS
STATE_LENGTH = _SORTED + RANK_BARS
_PACKED_LENGTH = _SORTED

_K_10 = 2.0 / (EMA_FAST + 1)
_K_12 = 2.0 / (MACD_FAST + 1)
_K_20 = 2.0 / (EMA_MIDDLE + 1)
_K_26 = 2.0 / (MACD_SLOW + 1)
_K_50 = 2.0 / (EMA_SLOW + 1)
_K_9 = 2.0 / (MACD_SIGNAL + 1)


class BadState(QuantumError):
    """Packed state of another length: it was written by another definition of the features."""


def new_state() -> list[float]:
    """The state before the first bar."""
    return [0.0] * STATE_LENGTH


def bars_seen(state: MutableSequence[float]) -> int:
    return int(state[COUNT])


def pack_state(state: list[float]) -> bytes:
    """float64, native order, without the sorted copy: unpacked it continues bit for bit."""
    return array("d", state[:_PACKED_LENGTH]).tobytes()


def unpack_state(packed: bytes) -> list[float]:
    """Raises BadState when the length is not ours."""
    if len(packed) != 8 * _PACKED_LENGTH:
        raise BadState(f"packed feature state has {len(packed)} bytes, not {8 * _PACKED_LENGTH}")
    values = array("d", packed).tolist()
    ranked = min(int(values[COUNT]), RANK_BARS)
    ordered = sorted(values[_DEVIATIONS : _DEVIATIONS + ranked])
    return values + ordered + [0.0] * (RANK_BARS - ranked)


def feature_step(
    state: MutableSequence[float],
    open_: float,
    high: float,
    low: float,
    close: float,
    volume: float,
    out: MutableSequence[float],
) -> None:
    """Take in a closed bar: write log return, the 18 features, trend strength and zero divisions; keep the returns.

    The bar has passed `hygiene.refusal`. None of the 18 uses open, high or low. Before a window is full it is as
    long as the bars there are.
    """
    count = int(state[0])
    place = count % _RING
    newest = _CLOSES + place + _RING
    state[newest - _RING] = close
    state[newest] = close
    volume_newest = _VOLUMES + place + _RING
    state[volume_newest - _RING] = volume
    state[volume_newest] = volume
    state[0] = count + 1.0

    if count == 0:
        state[_EMA_10] = state[_EMA_12] = state[_EMA_20] = state[_EMA_26] = state[_EMA_50] = close
        change = 0.0
        log_return = 0.0
    else:
        before = state[newest - 1]
        change = close - before
        log_return = log(close / before)
    out[0] = log_return
    return_newest = _RETURNS + place + _RING
    state[return_newest - _RING] = log_return
    state[return_newest] = log_return

    # Wilder: the mean of the first 14 changes, then smoothed.
    if count > 0:
        smoothing = count if count < RSI_BARS else RSI_BARS
        gain = state[_GAIN]
        loss = state[_LOSS]
        gain += ((change if change > 0.0 else 0.0) - gain) / smoothing
        loss += ((-change if change < 0.0 else 0.0) - loss) / smoothing
        state[_GAIN] = gain
        state[_LOSS] = loss
        rsi = 100.0 * (gain / (gain + loss)) if gain + loss > 0.0 else 50.0
    else:
        rsi = 50.0
    out[1] = rsi

    ema_10 = state[_EMA_10]
    ema_10 += _K_10 * (close - ema_10)
    state[_EMA_10] = ema_10
    ema_12 = state[_EMA_12]
    ema_12 += _K_12 * (close - ema_12)
    state[_EMA_12] = ema_12
    ema_20 = state[_EMA_20]
    ema_20 += _K_20 * (close - ema_20)
    state[_EMA_20] = ema_20
    ema_26 = state[_EMA_26]
    ema_26 += _K_26 * (close - ema_26)
    state[_EMA_26] = ema_26
    ema_50 = state[_EMA_50]
    ema_50 += _K_50 * (close - ema_50)
    state[_EMA_50] = ema_50
    macd = ema_12 - ema_26
    signal = state[_SIGNAL] if count > 0 else macd
    signal += _K_9 * (macd - signal)
    state[_SIGNAL] = signal
    out[2] = macd
    out[3] = signal
    out[4] = ema_10
    out[5] = ema_20
    out[6] = ema_50

    length = count + 1 if count < WINDOW_BARS else WINDOW_BARS
    closes = state[newest + 1 - length : newest + 1]
    back = count if count < WINDOW_BARS else WINDOW_BARS
    oldest = state[newest - back]
    previous = oldest
    total = 0.0
    path = 0.0
    for price in closes:
        total += price
        path += abs(price - previous)
        previous = price
    mean = total / length
    squares = 0.0
    for price in closes:
        squares += (price - mean) * (price - mean)
    reach = BAND_WIDTH * sqrt(squares / length)
    upper = mean + reach
    lower = mean - reach
    out[7] = upper
    out[8] = lower
    out[16] = (upper - close) / close
    out[17] = (close - lower) / close

    volume_total = 0.0
    for traded in state[volume_newest + 1 - length : volume_newest + 1]:
        volume_total += traded
    zero_divisions = 0.0
    if volume_total > 0.0:
        out[9] = volume / (volume_total / length)
    else:
        out[9] = 0.0
        zero_divisions = 1.0
    volume_before = state[_VOLUME]
    if volume_before > 0.0:
        ratio = volume / volume_before
        out[10] = ratio - 1.0
        out[11] = ratio
    else:
        out[10] = 0.0
        out[11] = 0.0
        if count > 0:
            zero_divisions += 2.0
    state[_VOLUME] = volume
    out[21] = zero_divisions

    out[12] = close / state[newest - MOMENTUM_SHORT_BARS] - 1.0 if count >= MOMENTUM_SHORT_BARS else 0.0
    out[13] = close / oldest - 1.0 if count >= MOMENTUM_LONG_BARS else 0.0
    out[14] = 1.0 if ema_10 > ema_20 else 0.0
    out[15] = 1.0 if ema_10 > ema_50 else 0.0
    out[18] = 0.0 if rsi < RSI_LOW else 2.0 if rsi > RSI_HIGH else 1.0

    # Rounding may carry a straight line past 1.
    trend = (close - oldest) / path if path > 0.0 else 0.0
    out[20] = 1.0 if trend > 1.0 else -1.0 if trend < -1.0 else trend


def volatility_step(state: MutableSequence[float], out: MutableSequence[float]) -> None:
    """After `feature_step`: write the percentile rank of the 20-bar deviation of log returns among its last 500."""
    count = int(state[0])
    length = count if count < WINDOW_BARS else WINDOW_BARS
    end = _RETURNS + (count - 1) % _RING + _RING + 1
    returns = state[end - length : end]
    total = 0.0
    for value in returns:
        total += value
    mean = total / length
    squares = 0.0
    for value in returns:
        squares += (value - mean) * (value - mean)
    out[19] = rank(state, count - 1, sqrt(squares / length))


def rank(state: MutableSequence[float], before: int, deviation: float) -> float:
    """Take in the deviation after `before` others; return its share of the last 500, itself included, that are ≤ it.

    Beside the ring there is a sorted copy, kept so by two binary searches: counting 500 values takes 12 µs, this 3.
    """
    kept = before if before < RANK_BARS else RANK_BARS
    ring = _DEVIATIONS + before % RANK_BARS
    gone = _SORTED + kept  # place in the sorted copy that becomes free
    if kept == RANK_BARS:
        gone = _place(state, kept, state[ring], False)
        kept -= 1
    state[ring] = deviation
    above = _place(state, RANK_BARS if before >= RANK_BARS else kept, deviation, True)
    if above > gone:
        above -= 1
        _move(state, gone + 1, above + 1, -1)
    else:
        _move(state, above, gone, 1)
    state[above] = deviation
    return (above + 1 - _SORTED) / (kept + 1)


def _move(state: MutableSequence[float], start: int, stop: int, by: int) -> None:
    """Move values by one place. The batch moves one at a time instead (its compiler takes seconds over this slice)."""
    state[start + by : stop + by] = state[start:stop]


def _place(state: MutableSequence[float], kept: int, deviation: float, after: bool) -> int:
    """First place in the sorted copy whose value is > `deviation` (after) or ≥ it."""
    low = _SORTED
    high = _SORTED + kept
    while low < high:
        middle = (low + high) // 2
        if state[middle] < deviation or (after and state[middle] == deviation):
            low = middle + 1
        else:
            high = middle
    return low


def step(
    state: MutableSequence[float],
    open_: float,
    high: float,
    low: float,
    close: float,
    volume: float,
    out: MutableSequence[float],
) -> None:
    """Take in one closed bar and write its OUTPUT_LENGTH numbers: log return, 18 raw features, volatility in [0, 1],
    trend strength in [-1, 1], zero-volume divisions. All of them use bars closing ≤ t.
    """
    feature_step(state, open_, high, low, close, volume, out)
    volatility_step(state, out)

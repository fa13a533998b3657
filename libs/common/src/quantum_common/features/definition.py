"""Which features there are, in which order and with which parameters; and the hash that ties a model to them."""

from __future__ import annotations

import hashlib
import json

FEATURE_NAMES: tuple[str, ...] = (
    "rsi",
    "macd",
    "macd_signal",
    "ema_10",
    "ema_20",
    "ema_50",
    "bb_upper",
    "bb_lower",
    "volume_ma_ratio",
    "volume_change",
    "volume_ratio",
    "momentum_10",
    "momentum_20",
    "ema_10_20_cross",
    "ema_10_50_cross",
    "close_to_bb_upper",
    "close_to_bb_lower",
    "rsi_category",
)
"""The 18 features in the order of every vector. All use bars closing ≤ t."""

VIEWS: tuple[str, ...] = ("raw", "relative")

WARMUP_BARS = 1000
"""Bars after a (re)start whose features are neither published nor trained on: they still depend on the start."""

SEQUENCE_BARS = 64
"""Length of a sequence model's window."""

FEATURE_COUNT = len(FEATURE_NAMES)
SEQUENCE_CHANNELS = 1 + FEATURE_COUNT
"""Channels of a sequence: log return, then the features."""

VECTOR_LENGTH = 2 + FEATURE_COUNT
"""A stored vector is (close, log_return, 18 raw features): the relative view divides by the close."""

LONGEST_STEPPED_GAP_BARS = 24
"""Missing bars that the recursions step over; one more and the warm-up starts again."""

RSI_BARS = 14
RSI_LOW = 30.0
RSI_HIGH = 70.0
MACD_FAST, MACD_SLOW, MACD_SIGNAL = 12, 26, 9
EMA_FAST, EMA_MIDDLE, EMA_SLOW = 10, 20, 50
WINDOW_BARS = 20
"""Bollinger bands, volume average, regime."""
BAND_WIDTH = 2.0
MOMENTUM_SHORT_BARS, MOMENTUM_LONG_BARS = 10, 20
RANK_BARS = 500
"""Bars among which the volatility is ranked."""
VOLUME_CLIP = 50.0
"""Upper bound of the volume features in the relative view: one print after a dead bar reaches millions."""

_FORMULA_VERSION = 1
"""Grows when a formula changes but no name or parameter does."""


def feature_hash(view: str, warmup_bars: int = WARMUP_BARS) -> str:
    """32 hex digits over names, order, parameters, warm-up and view. A model with another hash is refused."""
    if view not in VIEWS:
        raise ValueError(f"view {view!r}: use one of {', '.join(VIEWS)}")
    definition = {
        "formula_version": _FORMULA_VERSION,
        "names": FEATURE_NAMES,
        "rsi": [RSI_BARS, RSI_LOW, RSI_HIGH],
        "macd": [MACD_FAST, MACD_SLOW, MACD_SIGNAL],
        "ema": [EMA_FAST, EMA_MIDDLE, EMA_SLOW],
        "window_bars": WINDOW_BARS,
        "band_width": BAND_WIDTH,
        "momentum": [MOMENTUM_SHORT_BARS, MOMENTUM_LONG_BARS],
        "rank_bars": RANK_BARS,
        "volume_clip": VOLUME_CLIP,
        "longest_stepped_gap_bars": LONGEST_STEPPED_GAP_BARS,
        "sequence_bars": SEQUENCE_BARS,
        "warmup_bars": warmup_bars,
        "view": view,
    }
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:32]

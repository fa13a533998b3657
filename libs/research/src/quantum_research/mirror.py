"""The market upside down: every training row once more with its returns negated and SELL and BUY exchanged.

What is known of the direction is little, and the drift of the years trained on drowns it. A model that sees each row
and its mirror image cannot learn that drift. Measured by walk-forward inside the first 80 % of eight symbols of 1h
bars: AUC of the direction .546 → .567 (PatchTST), .546 → .554 (trees), log-loss gain +.002 to +.003.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantum_common.features import FEATURE_NAMES
from quantum_research.labels import BUY, SELL

_EXCHANGED = {
    "bb_upper": "bb_lower",
    "bb_lower": "bb_upper",
    "close_to_bb_upper": "close_to_bb_lower",
    "close_to_bb_lower": "close_to_bb_upper",
}
_NEGATED = {
    *("macd", "macd_signal", "ema_10", "ema_20", "ema_50", "bb_upper", "bb_lower", "momentum_10", "momentum_20")
}
_TURNED_AT = {"rsi": 100.0, "ema_10_20_cross": 1.0, "ema_10_50_cross": 1.0, "rsi_category": 2.0}
"""Features that run from 0 to this."""

SOURCE: NDArray[np.intp] = np.array([FEATURE_NAMES.index(_EXCHANGED.get(name, name)) for name in FEATURE_NAMES])
SIGN: NDArray[np.float32] = np.array(
    [-1.0 if name in _NEGATED or name in _TURNED_AT else 1.0 for name in FEATURE_NAMES], np.float32
)
OFFSET: NDArray[np.float32] = np.array([_TURNED_AT.get(name, 0.0) for name in FEATURE_NAMES], np.float32)
"""A mirrored feature is `features[SOURCE] · SIGN + OFFSET`, for the relative view (exact to first order in returns)."""

SEQUENCE_SOURCE: NDArray[np.intp] = np.concatenate([[0], SOURCE + 1])
SEQUENCE_SIGN: NDArray[np.float32] = np.concatenate([np.array([-1.0], np.float32), SIGN])
SEQUENCE_OFFSET: NDArray[np.float32] = np.concatenate([np.array([0.0], np.float32), OFFSET])
"""The same for the 19 channels of a sequence: the log return comes first."""


def with_mirror_image(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(2n, 18) from rows (n, 18) of the relative view: as they are, then mirrored."""
    return np.concatenate([rows, rows[:, SOURCE] * SIGN + OFFSET])


def with_mirrored_labels(labels: NDArray[np.int8]) -> NDArray[np.int8]:
    """(2n,) labels of `with_mirror_image`."""
    return np.concatenate([labels, (SELL + BUY - labels).astype(np.int8)])

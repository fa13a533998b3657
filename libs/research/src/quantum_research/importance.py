"""Which features a model uses: how much worse it gets when one of them is another row's.

Source: Breiman (2001); Fisher, Rudin and Dominici (2019) for any model. Features that say the same (EMAs, bands)
stand in for each other, so each of them looks less important than all of them are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_common.agent.spec import ModelSpec
from quantum_common.features import FEATURE_COUNT, FEATURE_NAMES, SEQUENCE_BARS, views
from quantum_research.bootstrap import DayBlocks, Estimate
from quantum_research.dataset import Dataset
from quantum_research.scores import row_log_loss

Array = NDArray[np.float64]
Predict = Callable[[Dataset], Array]
"""Calibrated probabilities (rows, 3)."""

MOST_ROWS = 5000
_RESAMPLES = 200
_CLOSE, _LOG_RETURN, _FIRST_FEATURE = 0, 1, 2
_IN_PRICE_UNITS = views.relative(np.ones(FEATURE_COUNT), np.array(1.0)) != views.relative(
    np.ones(FEATURE_COUNT), np.array(2.0)
)
"""Features that the relative view divides by the close."""


class Importance(msgspec.Struct, frozen=True):
    feature: str
    loss_increase: Estimate
    """Log-loss with the feature permuted − log-loss as it is."""


def permutation_importance(
    predict: Predict, spec: ModelSpec, data: Dataset, *, most_rows: int = MOST_ROWS, seed: int = 42
) -> list[Importance]:
    """Most important first, on at most `most_rows` of `data`, which the model should not have seen.

    A sequence model gets a channel's whole window from another row. In the relative view a price is moved together with
    its scale, so the permuted model input is exactly another row's.
    """
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(len(data))[:most_rows])
    sample, windows = _with_own_windows(data.take(chosen), spec)
    blocks = DayBlocks(sample.ts_ms, resamples=_RESAMPLES, seed=seed)
    plain = row_log_loss(predict(sample), sample.label)
    found = []
    for name, column in _columns(spec):
        permuted = _permuted(windows, column, spec, generator.permutation(len(sample)))
        asked = replace(sample, vectors=permuted.reshape(sample.vectors.shape))
        found.append(Importance(name, blocks.mean(row_log_loss(predict(asked), sample.label) - plain)))
    return sorted(found, key=lambda each: -each.loss_increase.value)


def _columns(spec: ModelSpec) -> list[tuple[str, int]]:
    features = [(name, _FIRST_FEATURE + place) for place, name in enumerate(FEATURE_NAMES)]
    return features if spec.input_kind == "row" else [("log_return", _LOG_RETURN), *features]


def _with_own_windows(data: Dataset, spec: ModelSpec) -> tuple[Dataset, Array]:
    """The rows with vectors of their own, so that one can change without its neighbours; (rows, length, 20)."""
    length = SEQUENCE_BARS if spec.input_kind == "window" else 1
    windows = data.vectors[data.bar[:, None] + np.arange(1 - length, 1)]
    ends = np.arange(len(data), dtype=np.intp) * length + length - 1
    return replace(data, vectors=windows.reshape(-1, windows.shape[-1]), bar=ends), windows


def _permuted(windows: Array, column: int, spec: ModelSpec, order: NDArray[np.intp]) -> Array:
    moved = windows.copy()
    moved[:, :, column] = windows[order, :, column]
    feature = column - _FIRST_FEATURE
    if spec.view == "relative" and feature >= 0 and _IN_PRICE_UNITS[feature]:
        moved[:, :, column] *= windows[:, :, _CLOSE] / windows[order, :, _CLOSE]
    return moved

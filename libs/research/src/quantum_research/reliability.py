"""Whether a confidence of 60 % is right in 60 of 100 cases, and how confident a model is at all."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_research.bootstrap import DayBlocks, Estimate

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CALIBRATION_BINS = 15
_HISTOGRAM_EDGES = np.linspace(1 / 3, 1.0, 31)
"""The largest of three probabilities is at least a third."""
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_TOP_SHARE = 0.01


class Bin(msgspec.Struct, frozen=True):
    """Rows whose confidence lies in one bin."""

    rows: int
    confidence: float
    accuracy: float


class TopPercentile(msgspec.Struct, frozen=True):
    """The most confident hundredth of the rows, where sizes are largest."""

    rows: int
    from_confidence: float
    gap: Estimate
    """Mean confidence − accuracy; above 0 is overconfident."""


class Confidence(msgspec.Struct, frozen=True):
    quantiles: dict[str, float]
    edges: list[float]
    counts: list[int]
    """Rows between neighbouring edges."""


class Reliability(msgspec.Struct, frozen=True):
    curve: list[Bin]
    error: float
    """Expected calibration error."""
    top: TopPercentile


def calibration_curve(confidence: Array, right: Mask) -> list[Bin]:
    """The occupied ones of 15 equal bins of confidence, from the lowest. Source: Guo et al. (2017)."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    said = np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS)
    was = np.bincount(bins, weights=right.astype(np.float64), minlength=CALIBRATION_BINS)
    return [Bin(int(rows[b]), float(said[b] / rows[b]), float(was[b] / rows[b])) for b in np.flatnonzero(rows)]


def calibration_error(confidence: Array, right: Mask) -> float:
    """Expected calibration error: mean |confidence − accuracy| of the bins, weighted by their rows."""
    curve = calibration_curve(confidence, right)
    return sum(b.rows * abs(b.confidence - b.accuracy) for b in curve) / len(confidence)


def reliability(confidence: Array, right: Mask, blocks: DayBlocks) -> Reliability:
    border = np.quantile(confidence, 1.0 - _TOP_SHARE)
    top = confidence >= border
    gap = blocks.mean(confidence - right, top)
    found = TopPercentile(int(top.sum()), float(border), gap)
    return Reliability(calibration_curve(confidence, right), calibration_error(confidence, right), found)


def confidence_distribution(confidence: Array) -> Confidence:
    at = np.quantile(confidence, _QUANTILES)
    counts, _ = np.histogram(np.clip(confidence, 1 / 3, 1.0), _HISTOGRAM_EDGES)
    names = [f"p{round(100 * q):02d}" for q in _QUANTILES]
    return Confidence(dict(zip(names, at.tolist(), strict=True)), _HISTOGRAM_EDGES.tolist(), counts.tolist())

"""Out-of-fold predictions of every agent by purged walk-forward, and the final models: the same pipeline for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantum_research.calibration import Calibration, fit_calibration
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort, Fitted, Trainer
from quantum_research.splits import Rows, Split, hold_out_tail, walk_forward

Array = NDArray[np.float64]
Step = Callable[[str], None]
"""Called with the name of the work that starts."""

FIRST_TRAIN_SHARE = 0.4
CALIBRATION_SHARE = 0.3
"""Measured on 1h bars: 0.3 gave the better log-loss than 0.2 (a short calibration part is one mood of the market)."""
VALIDATION_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A fitted model and the calibration from a part that it was neither fitted nor stopped on."""

    fitted: Fitted
    calibration: Calibration
    prior: Array
    """Class shares of the part it was fitted on."""

    def probabilities(self, data: Dataset) -> Array:
        return self.calibration.probabilities(self.fitted.logits(data))


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Calibrated probabilities on rows that came after everything their model had seen."""

    data: Dataset
    probabilities: dict[str, Array]
    """agent → (rows, 3)."""
    prior: Array
    """(rows, 3): class shares that the fold's training part knew."""
    fold: NDArray[np.intp]
    """(rows,) number of the fold, from 0, oldest first."""


def fit_calibrated(trainer: Trainer, data: Dataset, effort: Effort, embargo_ms: int) -> Calibrated:
    """Fit on the oldest part, stop early on the next, calibrate on the newest; each border is purged."""
    outer = hold_out_tail(_all(data), data.ts_ms, data.label_end_ms, share=CALIBRATION_SHARE, embargo_ms=embargo_ms)
    inner = hold_out_tail(outer.past, data.ts_ms, data.label_end_ms, share=VALIDATION_SHARE, embargo_ms=embargo_ms)
    train, held_out = data.take(inner.past), data.take(outer.future)
    fitted = trainer.fit(train, data.take(inner.future), effort)
    return Calibrated(fitted, fit_calibration(fitted.logits(held_out), held_out.label), train.class_shares())


def folds(data: Dataset, effort: Effort, embargo_ms: int) -> list[Split]:
    """What is predicted out of fold, oldest first: the past that each fold may know, and the fold."""
    return walk_forward(
        _all(data),
        data.ts_ms,
        data.label_end_ms,
        folds=effort.folds,
        first_share=FIRST_TRAIN_SHARE,
        embargo_ms=embargo_ms,
    )


def out_of_fold(
    trainers: Mapping[str, Trainer], data: Dataset, effort: Effort, embargo_ms: int, step: Step
) -> OutOfFold:
    """Fit every agent once per fold on the past and ask it about the fold."""
    splits = folds(data, effort, embargo_ms)
    probabilities: dict[str, list[Array]] = {agent: [] for agent in trainers}
    priors = []
    for number, split in enumerate(splits, start=1):
        past, future = data.take(split.past), data.take(split.future)
        priors.append(np.broadcast_to(past.class_shares(), (len(future), 3)))
        for agent, trainer in trainers.items():
            step(f"fold {number}/{len(splits)} {agent}")
            model = fit_calibrated(trainer, past, effort, embargo_ms)
            probabilities[agent].append(model.probabilities(future))
    tested = np.concatenate([split.future for split in splits])
    joined = {agent: np.concatenate(parts) for agent, parts in probabilities.items()}
    fold = np.repeat(np.arange(len(splits)), [len(split.future) for split in splits])
    return OutOfFold(data.take(tested), joined, np.concatenate(priors), fold)


def _all(data: Dataset) -> Rows:
    return np.arange(len(data))

"""Out-of-fold predictions of every agent by purged walk-forward, and the final models: the same pipeline for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantum_common.features import SEQUENCE_BARS
from quantum_research.calibration import Calibration, fit_calibration
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort, Fitted, Trainer
from quantum_research.splits import Rows, Split, calibration_split, walk_forward

Array = NDArray[np.float64]
Step = Callable[[str], None]
"""Called with the name of the work that starts."""

FIRST_TRAIN_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A fitted model and its calibration from rows that it was not fitted on."""

    fitted: Fitted
    calibration: Calibration
    prior: Array
    """Class shares of all rows it was given."""

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
    """Fit on most rows; stop early and calibrate on blocks of others, purged and spread over the whole range."""
    split = calibration_split(
        _all(data), data.ts_ms, data.label_end_ms, embargo_ms=embargo_ms, window_bars=SEQUENCE_BARS
    )
    held_out = data.take(split.future)
    fitted = trainer.fit(data.take(split.past), held_out, effort)
    return Calibrated(fitted, fit_calibration(fitted.logits(held_out), held_out.label), data.class_shares())


def folds(data: Dataset, effort: Effort, embargo_ms: int) -> list[Split]:
    """What is predicted out of fold, oldest first: the purged past that each fold may know, and the fold."""
    return walk_forward(
        _all(data),
        data.ts_ms,
        data.label_end_ms,
        folds=effort.folds,
        first_share=FIRST_TRAIN_SHARE,
        embargo_ms=embargo_ms,
    )


def joined(
    data: Dataset, splits: Sequence[Split], probabilities: Mapping[str, Sequence[Array]], priors: Sequence[Array]
) -> OutOfFold:
    """One table of all folds: `probabilities` is agent → fold → (rows, 3), `priors` is fold → (3,)."""
    lengths = [len(split.future) for split in splits]
    return OutOfFold(
        data=data.take(np.concatenate([split.future for split in splits])),
        probabilities={agent: np.concatenate(list(parts)) for agent, parts in probabilities.items()},
        prior=np.repeat(np.array(priors), lengths, axis=0),
        fold=np.repeat(np.arange(len(splits)), lengths),
    )


def out_of_fold(
    trainers: Mapping[str, Trainer], data: Dataset, effort: Effort, embargo_ms: int, step: Step
) -> OutOfFold:
    """Fit every agent once per fold on the past and ask it about the fold."""
    splits = folds(data, effort, embargo_ms)
    probabilities: dict[str, list[Array]] = {agent: [] for agent in trainers}
    for number, split in enumerate(splits, start=1):
        past, future = data.take(split.past), data.take(split.future)
        for agent, trainer in trainers.items():
            step(f"fold {number}/{len(splits)} {agent}")
            probabilities[agent].append(fit_calibrated(trainer, past, effort, embargo_ms).probabilities(future))
    return joined(data, splits, probabilities, [data.take(split.past).class_shares() for split in splits])


def _all(data: Dataset) -> Rows:
    return np.arange(len(data))

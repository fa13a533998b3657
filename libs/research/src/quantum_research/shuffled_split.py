"""The number that is not to be believed: accuracy on rows that lie between the rows the model was fitted on.

Labels of neighbouring bars overlap, so such a model has half seen what it is tested on. It is shown under this name
only, because older systems reported it.
"""

from __future__ import annotations

import msgspec
import numpy as np

from quantum_research.calibration import fit_calibration
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort, Trainer

_PART_ENDS = (0.55, 0.65, 0.80)
"""Shares of the shuffled rows after which fitting, early stopping and calibration end; the rest is tested."""


class ShuffledSplit(msgspec.Struct, frozen=True):
    rows: int
    accuracy: float
    accuracy_majority: float


def shuffled_split_accuracy(trainer: Trainer, data: Dataset, effort: Effort) -> ShuffledSplit:
    """Fit, stop, calibrate and test on shuffled parts of `data`. Raises TooLittleData when a class is missing."""
    order = np.random.default_rng(effort.seed).permutation(len(data))
    fit, stop, calibrate, test = (
        data.take(np.sort(part)) for part in np.split(order, [int(len(data) * end) for end in _PART_ENDS])
    )
    fitted = trainer.fit(fit, stop, effort)
    calibration = fit_calibration(fitted.logits(calibrate), calibrate.label)
    actions = calibration.probabilities(fitted.logits(test)).argmax(axis=1)
    shares = np.bincount(test.label, minlength=3) / len(test)
    return ShuffledSplit(len(test), float((actions == test.label).mean()), float(shares.max()))

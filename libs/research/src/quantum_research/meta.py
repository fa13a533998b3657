"""How a meta learner is trained on votes: masked agents, purged folds, calibration on rows it had not seen.

Its inputs are built by the meta service's own package, so training and serving cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meta_svc.versions import V1, V2, V2P, MetaVersion
from quantum_common.models import LinearModel as LinearForm
from quantum_research.calibration import Calibration, fit_calibration
from quantum_research.meta_linear import fit_linear
from quantum_research.meta_network import fit_perceptron
from quantum_research.splits import Rows, Split, calibration_split, walk_forward
from quantum_research.votes import VoteTable

Array = NDArray[np.float64]
Labels = NDArray[np.int8]

FOLDS = 5
_FIRST_SHARE = 0.2


class FittedMeta(Protocol):
    """A trained meta learner before its calibration."""

    def logits(self, inputs: Array) -> Array:
        """(rows, 3) from (rows, inputs)."""

    def export(self, calibration: Calibration) -> bytes:
        """An ONNX graph from "input" to calibrated "probabilities"."""

    def parameters(self) -> int: ...

    def linear_form(self, calibration: Calibration) -> LinearForm | None:
        """For exact contributions; None when it is not linear."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the learner that serves as `version` is fitted."""

    version: MetaVersion
    fit: Callable[[Array, Labels, int], FittedMeta]
    """Inputs, labels and seed to a model. Raises TooLittleData."""
    libraries: tuple[str, ...]


RECIPES: tuple[Recipe, ...] = (
    Recipe(V2, fit_linear, ("scikit-learn",)),
    Recipe(V2P, fit_linear, ("scikit-learn",)),
    Recipe(V1, fit_perceptron, ("torch",)),
)


@dataclass(frozen=True, slots=True)
class MetaModel:
    """A meta learner with its calibration, and what it said on folds that neither of them had seen."""

    recipe: Recipe
    fitted: FittedMeta
    calibration: Calibration
    tested: Rows
    """Rows of the votes."""
    tested_probabilities: Array

    def probabilities(self, inputs: Array) -> Array:
        return self.calibration.probabilities(self.fitted.logits(inputs))


def train_meta(table: VoteTable, recipe: Recipe, *, embargo_ms: int, seed: int) -> MetaModel:
    """Fit on most rows, some of them with agents masked at random; calibrate on blocks of whole ones, as agents are.

    Judged on folds of which neither the fold's model nor its calibration had seen anything. Raises TooLittleData.
    """
    names, label = recipe.version.feature_names, table.label
    votes, masked = table.inputs(names), table.inputs(names, table.masked(seed))

    def fit(rows: Rows) -> tuple[FittedMeta, Calibration]:
        split = calibration_split(rows, table.ts_ms, table.label_end_ms, embargo_ms=embargo_ms, window_bars=0)
        model = recipe.fit(masked[split.past], label[split.past], seed)
        return model, fit_calibration(model.logits(votes[split.future]), label[split.future])

    def said(split: Split) -> Array:
        model, calibration = fit(split.past)
        return calibration.probabilities(model.logits(votes[split.future]))

    splits = meta_folds(table, embargo_ms)
    model, calibration = fit(np.arange(len(table)))
    return MetaModel(
        recipe,
        model,
        calibration,
        tested=np.concatenate([split.future for split in splits]),
        tested_probabilities=np.concatenate([said(split) for split in splits]),
    )


def meta_folds(table: VoteTable, embargo_ms: int) -> list[Split]:
    """The first fifth of the bar times only trains; the rest is tested in folds."""
    return walk_forward(
        np.arange(len(table)),
        table.ts_ms,
        table.label_end_ms,
        folds=FOLDS,
        first_share=_FIRST_SHARE,
        embargo_ms=embargo_ms,
    )

"""V2, the stacked meta model: multinomial logistic regression on the agents' out-of-fold votes.

Its 26 inputs are built by the meta service's own function, so training and serving cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from meta_svc.inputs import build_inputs
from quantum_common.domain import AGENTS
from quantum_common.domain.signal import CLASS_ORDER
from quantum_research import TooLittleData
from quantum_research.calibration import Calibration, fit_calibration
from quantum_research.export import linear_graph
from quantum_research.splits import Rows, Split, walk_forward
from quantum_research.walk_forward import OutOfFold

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

META = "meta"
_FOLDS = 4
_FIRST_SHARE = 0.2
_ABSENT_SHARE = 0.25
_INVERSE_PENALTY = 0.1


@dataclass(frozen=True, slots=True)
class LinearModel:
    """logits = coefficients · (x − mean) / scale + intercept; x are the 26 inputs."""

    coefficients: Array
    """(3, 26)."""
    intercept: Array
    mean: Array
    scale: Array

    def logits(self, inputs: Array) -> Array:
        result: Array = (inputs - self.mean) / self.scale @ self.coefficients.T + self.intercept
        return result

    def contributions(self, inputs: Array, calibration: Calibration) -> Array:
        """(rows, 3, 26): coefficient × standardised value / temperature.

        With intercept / temperature + class bias they sum to the calibrated logit.
        """
        standardised = (inputs - self.mean) / self.scale
        parts: Array = standardised[:, None, :] * self.coefficients / calibration.temperature
        return parts

    def export(self, calibration: Calibration) -> bytes:
        return linear_graph(self.coefficients, self.intercept, self.mean, self.scale, calibration)


@dataclass(frozen=True, slots=True)
class MetaModel:
    """V2 with its calibration, and what it said on folds that neither of them had seen."""

    linear: LinearModel
    calibration: Calibration
    tested: Rows
    """Rows of the out-of-fold data."""
    tested_probabilities: Array


def vote_inputs(probabilities: Mapping[str, Array], present: Mask, volatility: Array, trend_strength: Array) -> Array:
    """(rows, 26) inputs of V2; `present` (rows, 4) says which agents (in the order of AGENTS) vote at all."""
    actions = {agent: probabilities[agent].argmax(axis=1) for agent in AGENTS}
    confidences = {agent: probabilities[agent].max(axis=1) for agent in AGENTS}
    return np.array(
        [
            build_inputs(
                {
                    agent: (CLASS_ORDER[actions[agent][row]], float(confidences[agent][row])) if votes else None
                    for agent, votes in zip(AGENTS, present[row], strict=True)
                },
                float(volatility[row]),
                float(trend_strength[row]),
            )
            for row in range(len(present))
        ]
    )


def random_presence(rows: int, seed: int) -> Mask:
    """Which agents vote in a row whose others are masked: each is absent in a quarter of the rows, never all."""
    generator = np.random.default_rng(seed)
    present = generator.random((rows, len(AGENTS))) >= _ABSENT_SHARE
    present[np.arange(rows), generator.integers(len(AGENTS), size=rows)] = True
    return present


def fit_linear(inputs: Array, labels: NDArray[np.int8]) -> LinearModel:
    """L2-regularised multinomial logistic regression (C 0.1), balanced class weights, standardised inputs."""
    if len(np.unique(labels)) < 3:
        raise TooLittleData("the out-of-fold rows of a meta fold miss a class: use a longer range")
    mean = inputs.mean(axis=0)
    deviation = inputs.std(axis=0)
    scale = np.where(deviation > 1e-9, deviation, 1.0)
    regression = LogisticRegression(C=_INVERSE_PENALTY, class_weight="balanced", tol=1e-8, max_iter=10_000)
    regression.fit((inputs - mean) / scale, labels)
    return LinearModel(regression.coef_, regression.intercept_, mean, scale)


def train_meta(past: OutOfFold, *, embargo_ms: int, seed: int) -> MetaModel:
    """Fit V2 on all out-of-fold rows, each once with its votes and once with agents masked at random.

    The calibration comes from folds that its linear models had not seen. A fold is tested with a calibration from the
    folds before it.
    """
    data = past.data
    label, rows = data.label, np.arange(len(data))
    everyone = np.ones((len(data), len(AGENTS)), bool)
    regime = (data.volatility, data.trend_strength)
    votes = vote_inputs(past.probabilities, everyone, *regime)
    masked = vote_inputs(past.probabilities, random_presence(len(data), seed), *regime)

    def fit(chosen: Rows) -> LinearModel:
        return fit_linear(np.concatenate([votes[chosen], masked[chosen]]), np.concatenate([label[chosen]] * 2))

    splits = walk_forward(
        rows, data.ts_ms, data.label_end_ms, folds=_FOLDS, first_share=_FIRST_SHARE, embargo_ms=embargo_ms
    )
    held_out = [fit(split.past).logits(votes[split.future]) for split in splits]
    tested = np.concatenate([split.future for split in splits[1:]])
    probabilities = np.concatenate(
        [_tested_fold(splits, held_out, label, data.label_end_ms, data.ts_ms, k) for k in range(1, len(splits))]
    )
    calibration = fit_calibration(np.concatenate(held_out), label[np.concatenate([s.future for s in splits])])
    return MetaModel(fit(rows), calibration, tested, probabilities)


def _tested_fold(
    splits: list[Split],
    held_out: list[Array],
    label: NDArray[np.int8],
    label_end_ms: NDArray[np.int64],
    ts_ms: NDArray[np.int64],
    fold: int,
) -> Array:
    """Fold's held-out logits under a calibration from earlier folds' rows whose labels ended before it began."""
    known = np.concatenate([split.future for split in splits[:fold]])
    purged = label_end_ms[known] <= ts_ms[splits[fold].future].min()
    calibration = fit_calibration(np.concatenate(held_out[:fold])[purged], label[known[purged]])
    return calibration.probabilities(held_out[fold])

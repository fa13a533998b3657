"""The evaluation of models on rows they had not seen: walk-forward rows and a held-out test part alike."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_research import ResearchError
from quantum_research.bootstrap import DayBlocks, Estimate
from quantum_research.dataset import Dataset
from quantum_research.diversity import Diversity, diversity
from quantum_research.labels import HOLD
from quantum_research.metrics import regime_rows
from quantum_research.reliability import Confidence, Reliability, confidence_distribution, reliability
from quantum_research.scores import Judged, Score, confusion_matrix, score_parts
from quantum_research.signal_result import FEE_BPS, Holding, SignalResult, holding, signal_results
from quantum_research.walk_forward import OutOfFold

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

RESAMPLES = 1000
AUC_RESAMPLES = 200
_SLACK = 1e-6
"""How far the three probabilities of a row may be from summing to 1."""


class ModelEvaluation(msgspec.Struct, frozen=True):
    """One model; SELL, HOLD, BUY wherever there are three numbers."""

    overall: Score
    folds: dict[str, Score]
    symbols: dict[str, Score]
    regimes: dict[str, Score]
    """low, medium, high (thirds of volatility), trending, ranging."""
    reliability: Reliability
    confidence: Confidence
    confusion: list[list[int]]
    """Rows: what happened; columns: what the model chose."""
    chosen_shares: list[float]
    mean_probabilities: list[float]
    p_hold_range: float
    """5-95 % range of P(HOLD): below 0.05 the model has collapsed."""
    signals: list[SignalResult]


class GainDifference(msgspec.Struct, frozen=True):
    """Log-loss of `against` − log-loss of `model` on the same rows: above 0, `model` is better."""

    model: str
    against: str
    difference: Estimate


class Evaluation(msgspec.Struct, frozen=True):
    rows: int
    days: int
    from_ms: int
    to_ms: int
    """End of the last label."""
    symbols: list[str]
    label_shares: list[float]
    models: dict[str, ModelEvaluation]
    differences: list[GainDifference]
    """Every pair once, in the order of the models."""
    diversity: Diversity
    holding: Holding
    fee_bps: float
    resamples: int
    seed: int

    def gain_difference(self, model: str, against: str) -> Estimate:
        """How much better `model` is than `against`. Raises KeyError for a model that is not here."""
        for found in self.differences:
            if (found.model, found.against) == (model, against):
                return found.difference
            if (found.model, found.against) == (against, model):
                value, low, high = found.difference.value, found.difference.low, found.difference.high
                return Estimate(-value, None if high is None else -high, None if low is None else -low)
        raise KeyError(f"no difference between {model} and {against}")

    def best(self) -> str:
        """The model with the lowest log-loss."""
        return min(self.models, key=lambda name: self.models[name].overall.log_loss)


def evaluate_models(
    rows: OutOfFold, *, fee_bps: float = FEE_BPS, resamples: int = RESAMPLES, seed: int = 42
) -> Evaluation:
    """Judge every model of `rows.probabilities` (base agents, meta models, votes) on the same rows.

    A held-out test part is an OutOfFold of one fold. Raises ResearchError when the arrays do not fit the rows.
    """
    data = rows.data
    _check(rows)
    blocks = DayBlocks(data.ts_ms, resamples=resamples, seed=seed)
    judged = {name: Judged.of(p, rows.prior, data.label) for name, p in rows.probabilities.items()}
    parts = _parts(data, rows.fold)
    return Evaluation(
        rows=len(data),
        days=blocks.days,
        from_ms=int(data.ts_ms.min()),
        to_ms=int(data.label_end_ms.max()),
        symbols=list(data.symbols),
        label_shares=(np.bincount(data.label, minlength=3) / len(data)).tolist(),
        models={name: _model(found, data, parts, blocks, fee_bps, seed) for name, found in judged.items()},
        differences=_differences(judged, blocks),
        diversity=diversity(rows.probabilities, {name: found.loss for name, found in judged.items()}, data.label),
        holding=holding(data, fee_bps=fee_bps),
        fee_bps=fee_bps,
        resamples=resamples,
        seed=seed,
    )


def _model(
    judged: Judged,
    data: Dataset,
    parts: Mapping[str, Mapping[str, Mask]],
    blocks: DayBlocks,
    fee_bps: float,
    seed: int,
) -> ModelEvaluation:
    everything = {"overall": np.ones(len(data), bool)}
    low, high = np.quantile(judged.probabilities[:, HOLD], [0.05, 0.95])
    return ModelEvaluation(
        overall=score_parts(judged, everything, blocks, auc_resamples=AUC_RESAMPLES)["overall"],
        folds=score_parts(judged, parts["folds"], blocks),
        symbols=score_parts(judged, parts["symbols"], blocks),
        regimes=score_parts(judged, parts["regimes"], blocks),
        reliability=reliability(judged.confidence, judged.right, blocks),
        confidence=confidence_distribution(judged.confidence),
        confusion=confusion_matrix(judged.actions, judged.labels).tolist(),
        chosen_shares=(np.bincount(judged.actions, minlength=3) / len(data)).tolist(),
        mean_probabilities=judged.probabilities.mean(axis=0).tolist(),
        p_hold_range=float(high - low),
        signals=signal_results(judged.probabilities, data, blocks, fee_bps=fee_bps, seed=seed),
    )


def _parts(data: Dataset, fold: NDArray[np.intp]) -> dict[str, dict[str, Mask]]:
    return {
        "folds": {str(number + 1): fold == number for number in np.unique(fold).tolist()},
        "symbols": {name: data.symbol == place for place, name in enumerate(data.symbols)},
        "regimes": regime_rows(data.volatility, data.trend_strength),
    }


def _differences(judged: Mapping[str, Judged], blocks: DayBlocks) -> list[GainDifference]:
    pairs = list(combinations(judged, 2))
    if not pairs:
        return []
    found = blocks.means([judged[b].loss - judged[a].loss for a, b in pairs], [None] * len(pairs))
    return [GainDifference(a, b, difference) for (a, b), difference in zip(pairs, found, strict=True)]


def _check(rows: OutOfFold) -> None:
    if not len(rows.data) or not rows.probabilities:
        raise ResearchError("nothing to evaluate: give at least one row and one model")
    for name, given in {**rows.probabilities, "prior": rows.prior}.items():
        if given.shape != (len(rows.data), 3):
            raise ResearchError(
                f"{name}: probabilities of shape {given.shape} for {len(rows.data)} rows; give (rows, 3)"
            )
        if not np.isfinite(given).all() or (given < 0).any() or np.abs(given.sum(axis=1) - 1.0).max() > _SLACK:
            raise ResearchError(f"{name}: rows that are not three probabilities summing to 1; calibrate before judging")
    if rows.fold.shape != (len(rows.data),):
        raise ResearchError(f"fold: shape {rows.fold.shape} for {len(rows.data)} rows; give one number per row")

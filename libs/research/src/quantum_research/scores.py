"""The figures of one model on a set of rows and its parts, beside what knowing nothing is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_research.bootstrap import DayBlocks, Estimate
from quantum_research.labels import BUY, HOLD, SELL
from quantum_research.metrics import balanced_accuracy
from quantum_research.reliability import calibration_error

Array = NDArray[np.float64]
Labels = NDArray[np.int8]
Mask = NDArray[np.bool_]

_SMALLEST_PROBABILITY = 1e-15


class Score(msgspec.Struct, frozen=True):
    """A gain is the prior's loss − the model's: above 0, the model knows something."""

    rows: int
    accuracy: float
    accuracy_majority: float
    """Of always naming the most frequent class of these rows."""
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    log_loss_prior: float
    """Of the class shares that the model's training part knew."""
    log_loss_prior_hindsight: float
    """Of the class shares of these very rows: no constant does better."""
    gain: Estimate
    brier: float
    brier_prior: float
    brier_gain: Estimate
    calibration_error: float
    auc_move: Estimate | None
    """P(BUY or SELL) against the price having moved; None when all rows are of one kind."""
    auc_direction: Estimate | None
    """P(BUY) / (P(BUY) + P(SELL)) against the direction, among rows whose price moved."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Per row of one model: what it said and what that cost."""

    probabilities: Array
    labels: Labels
    actions: NDArray[np.intp]
    confidence: Array
    right: Mask
    loss: Array
    prior_loss: Array
    brier: Array
    prior_brier: Array

    @classmethod
    def of(cls, probabilities: Array, prior: Array, labels: Labels) -> Judged:
        actions = probabilities.argmax(axis=1)
        return cls(
            probabilities=probabilities,
            labels=labels,
            actions=actions,
            confidence=probabilities.max(axis=1),
            right=actions == labels,
            loss=row_log_loss(probabilities, labels),
            prior_loss=row_log_loss(prior, labels),
            brier=row_brier(probabilities, labels),
            prior_brier=row_brier(prior, labels),
        )


def row_log_loss(probabilities: Array, labels: Labels) -> Array:
    """−ln of the probability of what happened, (rows,)."""
    chosen = np.take_along_axis(probabilities, labels[:, None].astype(np.intp), axis=1)[:, 0]
    loss: Array = -np.log(np.clip(chosen, _SMALLEST_PROBABILITY, 1.0))
    return loss


def row_brier(probabilities: Array, labels: Labels) -> Array:
    """Squared distance to what happened over the three classes, (rows,), 0 to 2. Source: Brier (1950)."""
    distance: Array = ((probabilities - np.eye(3)[labels]) ** 2).sum(axis=1)
    return distance


def confusion_matrix(actions: NDArray[np.intp], labels: Labels) -> NDArray[np.intp]:
    """Rows: what happened; columns: what the model chose; SELL, HOLD, BUY."""
    return np.bincount(labels.astype(np.intp) * 3 + actions, minlength=9).reshape(3, 3)


def macro_f1(actions: NDArray[np.intp], labels: Labels) -> float:
    """Mean over the classes that occur of 2 · right / (chosen + happened)."""
    confusion = confusion_matrix(actions, labels)
    happened = confusion.sum(axis=1)
    occur = happened > 0
    return float((2 * np.diag(confusion)[occur] / (confusion.sum(axis=0) + happened)[occur]).mean())


def score_parts(
    judged: Judged, parts: Mapping[str, Mask], blocks: DayBlocks, *, auc_resamples: int = 0
) -> dict[str, Score]:
    """A score per part that has rows; areas under curves get an interval when they are given resamples."""
    occupied = {name: mask for name, mask in parts.items() if mask.any()}
    masks = list(occupied.values())
    gains = blocks.means([judged.prior_loss - judged.loss] * len(masks), masks)
    brier_gains = blocks.means([judged.prior_brier - judged.brier] * len(masks), masks)
    return {
        name: _score(judged, mask, blocks, gain, brier_gain, auc_resamples)
        for (name, mask), gain, brier_gain in zip(occupied.items(), gains, brier_gains, strict=True)
    }


def _score(
    judged: Judged, rows: Mask, blocks: DayBlocks, gain: Estimate, brier_gain: Estimate, auc_resamples: int
) -> Score:
    labels, actions, right = judged.labels[rows], judged.actions[rows], judged.right[rows]
    shares = np.bincount(labels, minlength=3) / len(labels)
    known = shares[shares > 0]
    move, direction = _discrimination(judged, rows, blocks, auc_resamples)
    return Score(
        rows=len(labels),
        accuracy=float(right.mean()),
        accuracy_majority=float(shares.max()),
        balanced_accuracy=balanced_accuracy(actions, labels),
        macro_f1=macro_f1(actions, labels),
        log_loss=float(judged.loss[rows].mean()),
        log_loss_prior=float(judged.prior_loss[rows].mean()),
        log_loss_prior_hindsight=float(-(known * np.log(known)).sum()),
        gain=gain,
        brier=float(judged.brier[rows].mean()),
        brier_prior=float(judged.prior_brier[rows].mean()),
        brier_gain=brier_gain,
        calibration_error=calibration_error(judged.confidence[rows], right),
        auc_move=move,
        auc_direction=direction,
    )


def _discrimination(
    judged: Judged, rows: Mask, blocks: DayBlocks, resamples: int
) -> tuple[Estimate | None, Estimate | None]:
    sell, buy = judged.probabilities[:, SELL], judged.probabilities[:, BUY]
    moved = judged.labels != HOLD
    up_share = buy / np.maximum(sell + buy, _SMALLEST_PROBABILITY)
    return (
        blocks.auc(sell + buy, moved, rows, resamples=resamples),
        blocks.auc(up_share, judged.labels == BUY, rows & moved, resamples=resamples),
    )

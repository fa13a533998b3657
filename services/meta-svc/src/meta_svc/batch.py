"""Input vectors of many bars at once, bit for bit what `inputs.py` builds row by row. Training's side of the inputs.

Columns are made by name and put in the order of the learner's feature names, which stand in `inputs.py` only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from meta_svc.inputs import SMALLEST_PROBABILITY
from quantum_common.domain import AGENTS
from quantum_common.domain.signal import CLASS_ORDER, Action

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Columns = dict[str, Array]

_PARTS = tuple(action.lower() for action in CLASS_ORDER)


def batch_inputs(
    feature_names: Sequence[str], probabilities: Array, present: Mask, volatility: Array, trend_strength: Array
) -> Array:
    """(rows, inputs) in the order of `feature_names`.

    `probabilities` (rows, 4, 3) of the agents in the order of AGENTS; `present` (rows, 4) says which of them vote:
    for the class with the highest probability, the first of equals. Raises KeyError for an unknown name.
    """
    actions = probabilities.argmax(axis=2)
    confidences = np.where(present, probabilities.max(axis=2), 0.0)
    columns = {
        **_votes(actions, confidences, present),
        **_aggregates(confidences, present),
        **_shares(actions, present),
        "volatility": volatility,
        "trend_strength": trend_strength,
    }
    if not columns.keys() >= set(feature_names):
        columns |= _logarithms(probabilities, present)
    return np.column_stack([columns[name] for name in feature_names])


def _votes(actions: npt.NDArray[np.intp], confidences: Array, present: Mask) -> Columns:
    columns = {}
    for number, agent in enumerate(AGENTS):
        votes = present[:, number]
        for action, part in zip(CLASS_ORDER, _PARTS, strict=True):
            columns[f"{agent}_{part}"] = (votes & (actions[:, number] == action.class_index)).astype(np.float64)
        columns[f"{agent}_conf"] = confidences[:, number]
        columns[f"{agent}_action"] = np.where(votes, actions[:, number], Action.HOLD.class_index).astype(np.float64)
    return columns


def _aggregates(confidences: Array, present: Mask) -> Columns:
    """An absent agent adds an exact 0 to each sum; where nobody votes everything is 0."""
    count = np.maximum(present.sum(axis=1), 1)
    mean = _sum(confidences) / count
    deviations = np.where(present, confidences - mean[:, None], 0.0)
    smallest = np.where(present, confidences, np.inf).min(axis=1)
    return {
        "mean_confidence": mean,
        "max_confidence": confidences.max(axis=1),
        "min_confidence": np.where(present.any(axis=1), smallest, 0.0),
        "confidence_std": np.sqrt(_sum(deviations * deviations) / count),
    }


def _sum(columns: Array) -> Array:
    """Added one after the other in the order of AGENTS, as `inputs.py` does it."""
    total = np.zeros(len(columns))
    for number in range(columns.shape[1]):
        total = total + columns[:, number]
    return total


def _shares(actions: npt.NDArray[np.intp], present: Mask) -> Columns:
    shares = {
        part: (present & (actions == action.class_index)).sum(axis=1) / len(AGENTS)
        for action, part in zip(CLASS_ORDER, _PARTS, strict=True)
    }
    largest = np.maximum.reduce(list(shares.values()))
    return {**{f"vote_{part}_pct": share for part, share in shares.items()}, "disagreement": 1.0 - largest}


def _logarithms(probabilities: Array, present: Mask) -> Columns:
    """By `math.log`, because numpy's differs from it in the last bit on some processors."""
    votes = probabilities[present]
    logarithms = np.zeros(probabilities.shape)
    clipped = np.maximum(votes, SMALLEST_PROBABILITY).ravel().tolist()
    logarithms[present] = np.fromiter(map(math.log, clipped), np.float64, len(clipped)).reshape(votes.shape)
    return {
        f"{agent}_log_{part}": logarithms[:, number, place]
        for number, agent in enumerate(AGENTS)
        for place, part in enumerate(_PARTS)
    }

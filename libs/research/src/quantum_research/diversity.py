"""How differently the models of an ensemble err: what a meta model has to work with.

Source: Kuncheva and Whitaker (2003), Measures of Diversity in Classifier Ensembles.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Matrix = list[list[float | None]]


class Diversity(msgspec.Struct, frozen=True):
    """Square matrices in the order of `models`; None where a figure is not defined, as for a model that never errs."""

    models: list[str]
    disagreement: Matrix
    """Share of rows in which two models choose different classes."""
    q_statistic: Matrix
    """Yule's Q of being right: 1 they err together, 0 independently, below 0 on different rows."""
    error_correlation: Matrix
    """Pearson correlation of being wrong."""
    loss_correlation: Matrix
    """Pearson correlation of the log-losses."""


def diversity(probabilities: Mapping[str, Array], losses: Mapping[str, Array], labels: NDArray[np.int8]) -> Diversity:
    """Of all pairs of models; probabilities (rows, 3), losses (rows,)."""
    actions = {name: p.argmax(axis=1) for name, p in probabilities.items()}
    right = {name: chosen == labels for name, chosen in actions.items()}
    names = list(probabilities)
    return Diversity(
        models=names,
        disagreement=[[float((actions[a] != actions[b]).mean()) for b in names] for a in names],
        q_statistic=[[q_statistic(right[a], right[b]) for b in names] for a in names],
        error_correlation=_correlations([right[name].astype(np.float64) for name in names]),
        loss_correlation=_correlations([losses[name] for name in names]),
    )


def q_statistic(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float | None:
    """(both right · both wrong − only one · only other) / their sum; None without a row of either kind."""
    both, neither = int((one & other).sum()), int((~one & ~other).sum())
    only_one, only_other = int((one & ~other).sum()), int((~one & other).sum())
    together, apart = both * neither, only_one * only_other
    return (together - apart) / (together + apart) if together + apart else None


def _correlations(values: list[Array]) -> Matrix:
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.atleast_2d(np.corrcoef(np.stack(values)))
    return [[None if np.isnan(cell) else float(cell) for cell in row] for row in found]

"""What a model is worth on rows it has not seen, always beside what knowing nothing is worth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantum_research.labels import BUY, HOLD, SELL
from quantum_research.reliability import calibration_error

Array = NDArray[np.float64]

_STRONG_TREND = 0.3
"""From this |trend_strength| on, a bar is trending."""
_QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95, "p99": 0.99}


def log_loss(probabilities: Array, labels: NDArray[np.int8]) -> float:
    chosen = np.take_along_axis(probabilities, labels[:, None].astype(np.intp), axis=1)
    return float(-np.log(np.clip(chosen, 1e-15, 1.0)).mean())


def balanced_accuracy(actions: NDArray[np.intp], labels: NDArray[np.int8]) -> float:
    """Mean recall of the classes that occur."""
    return float(np.mean([(actions[labels == klass] == klass).mean() for klass in np.unique(labels)]))


def evaluate(probabilities: Array, prior: Array, labels: NDArray[np.int8]) -> dict[str, float]:
    """Metrics of probabilities (rows, 3) beside their baselines; `prior` (rows, 3) is what the training part knew.

    `log_loss_prior` uses the training part's class shares, `log_loss_prior_hindsight` those of the tested rows: no
    constant does better. Collapse is judged on `p_hold_range` (5-95 %), never on shares of actions.
    """
    actions = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    shares = np.bincount(labels, minlength=3) / len(labels)
    hot = np.eye(3)[labels]
    low, high = np.quantile(probabilities[:, HOLD], [0.05, 0.95])
    return {
        "rows": float(len(labels)),
        "accuracy": float((actions == labels).mean()),
        "accuracy_majority": float(shares.max()),
        "balanced_accuracy": balanced_accuracy(actions, labels),
        "log_loss": log_loss(probabilities, labels),
        "log_loss_prior": log_loss(prior, labels),
        "log_loss_prior_hindsight": log_loss(np.broadcast_to(shares, prior.shape), labels),
        "brier": float(((probabilities - hot) ** 2).sum(axis=1).mean()),
        "brier_prior": float(((prior - hot) ** 2).sum(axis=1).mean()),
        "calibration_error": calibration_error(confidence, actions == labels),
        "p_hold_range": float(high - low),
        **{f"confidence_{name}": float(np.quantile(confidence, at)) for name, at in _QUANTILES.items()},
        "share_sell": float((actions == SELL).mean()),
        "share_hold": float((actions == HOLD).mean()),
        "share_buy": float((actions == BUY).mean()),
        "share_p_sell_above_0_40": float((probabilities[:, SELL] > 0.40).mean()),
        "share_p_buy_above_0_40": float((probabilities[:, BUY] > 0.40).mean()),
    }


def accuracy_by_regime(
    probabilities: Array, labels: NDArray[np.int8], volatility: Array, trend_strength: Array
) -> dict[str, dict[str, float | None]]:
    """Accuracy in the thirds of volatility and with and without a trend, each beside its majority class and rows.

    Without a row, accuracies are None: unknown.
    """
    right = probabilities.argmax(axis=1) == labels
    regimes = regime_rows(volatility, trend_strength)
    return {name: _accuracy(right[rows], labels[rows]) for name, rows in regimes.items()}


def regime_rows(volatility: Array, trend_strength: Array) -> dict[str, NDArray[np.bool_]]:
    """Which rows lie in each regime. Volatility is a rank in [0, 1], so its thirds end at 1/3 and 2/3."""
    trending = np.abs(trend_strength) >= _STRONG_TREND
    return {
        "low": volatility < 1 / 3,
        "medium": (volatility >= 1 / 3) & (volatility < 2 / 3),
        "high": volatility >= 2 / 3,
        "trending": trending,
        "ranging": ~trending,
    }


def _accuracy(right: NDArray[np.bool_], labels: NDArray[np.int8]) -> dict[str, float | None]:
    if not len(labels):
        return {"rows": 0.0, "accuracy": None, "accuracy_majority": None}
    majority = np.bincount(labels).max() / len(labels)
    return {"rows": float(len(labels)), "accuracy": float(right.mean()), "accuracy_majority": float(majority)}

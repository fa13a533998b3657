"""Calibration, and metrics beside their baselines."""

import numpy as np
import pytest
from scipy.special import softmax

from quantum_research.calibration import IDENTITY, fit_calibration
from quantum_research.metrics import accuracy_by_regime, calibration_error, evaluate, log_loss


def draw(probabilities: np.ndarray, seed: int) -> np.ndarray:
    uniform = np.random.default_rng(seed).random(len(probabilities))
    return (uniform[:, None] > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=2).astype(np.int8)


def true_logits(rows: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(rows, 3)) + np.array([-1.0, 1.5, -1.0])


def test_calibration_undoes_a_temperature_and_balancing_weights() -> None:
    truth = true_logits(40_000)
    labels = draw(softmax(truth, axis=1), seed=2)
    inflated = 2.5 * truth + np.array([2.0, -1.0, 1.5])
    calibrated = fit_calibration(inflated, labels).probabilities(inflated)
    assert np.abs(calibrated - softmax(truth, axis=1)).max() < 0.03
    assert log_loss(calibrated, labels) < log_loss(IDENTITY.probabilities(inflated), labels) - 0.1


def test_calibration_of_calibrated_logits_changes_little() -> None:
    truth = true_logits(40_000)
    found = fit_calibration(truth, draw(softmax(truth, axis=1), seed=3))
    assert found.temperature == pytest.approx(1.0, abs=0.05)


def test_calibration_stays_finite_where_a_class_is_missing() -> None:
    logits = true_logits(500)
    found = fit_calibration(logits, np.ones(500, np.int8))
    probabilities = found.probabilities(logits)
    assert np.isfinite(probabilities).all()
    assert (probabilities > 0).all()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (80.0, 0.34, 80.0)], ids=["natural", "balanced"])
def test_mean_probability_is_the_share_of_a_rare_class(weights: tuple[float, float, float]) -> None:
    rows = 100_000
    truth = np.random.default_rng(5).normal(size=(rows, 3)) + np.array([-6.5, 0.0, -6.5])
    labels = draw(softmax(truth, axis=1), seed=6)
    shares = np.bincount(labels, minlength=3) / rows
    assert shares[[0, 2]] == pytest.approx(0.004, rel=0.25)
    weighted = 1.7 * truth + np.log(weights)
    means = fit_calibration(weighted, labels).probabilities(weighted).mean(axis=0)
    assert means == pytest.approx(shares, rel=0.01)


@pytest.mark.parametrize("sells", [1, 40])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_calibration_stays_finite_where_a_rare_class_is_separable(sells: int, scale: float) -> None:
    rows = 10_000
    labels = np.where(np.arange(rows) < sells, 0, np.where(np.arange(rows) % 7, 1, 2)).astype(np.int8)
    logits = scale * (np.eye(3)[labels] + np.random.default_rng(7).uniform(-0.1, 0.1, size=(rows, 3)))
    found = fit_calibration(logits, labels)
    assert np.isfinite([found.temperature, *found.class_bias]).all()
    assert np.abs(found.class_bias).max() < 50.0
    assert np.isfinite(found.probabilities(logits)).all()


def test_metrics_stand_beside_what_knowing_nothing_is_worth() -> None:
    labels = np.array([1] * 80 + [0] * 10 + [2] * 10, np.int8)
    prior = np.full((100, 3), [0.2, 0.6, 0.2])
    metrics = evaluate(prior, prior, labels)
    assert metrics["accuracy"] == metrics["accuracy_majority"] == 0.8
    assert metrics["balanced_accuracy"] == pytest.approx(1 / 3)
    assert metrics["log_loss"] == pytest.approx(-(0.8 * np.log(0.6) + 0.2 * np.log(0.2)))
    assert metrics["log_loss"] == metrics["log_loss_prior"]
    assert metrics["log_loss_prior_hindsight"] < metrics["log_loss_prior"]
    assert metrics["brier"] == metrics["brier_prior"]
    assert metrics["calibration_error"] == pytest.approx(0.2)
    assert metrics["p_hold_range"] == 0.0


def test_calibration_error_is_zero_when_confidence_is_right_on_average() -> None:
    right = np.array([True, True, True, False])
    assert calibration_error(np.full(4, 0.75), right) == 0.0
    assert calibration_error(np.full(4, 0.95), right) == pytest.approx(0.2)


def test_accuracy_by_regime_stands_beside_the_majority_class_of_those_rows() -> None:
    said = np.array([1, 1, 1, 0, 2, 1])
    labels = np.array([1, 1, 0, 0, 1, 1], np.int8)
    volatility = np.array([0.0, 0.33, 0.34, 0.66, 0.67, 1.0])
    trend_strength = np.array([0.3, -0.3, 0.29, -0.29, 0.0, -1.0])
    found = accuracy_by_regime(np.eye(3)[said], labels, volatility, trend_strength)
    assert found == {
        "low": {"rows": 2.0, "accuracy": 1.0, "accuracy_majority": 1.0},
        "medium": {"rows": 2.0, "accuracy": 0.5, "accuracy_majority": 1.0},
        "high": {"rows": 2.0, "accuracy": 0.5, "accuracy_majority": 1.0},
        "trending": {"rows": 3.0, "accuracy": 1.0, "accuracy_majority": 1.0},
        "ranging": {"rows": 3.0, "accuracy": pytest.approx(1 / 3), "accuracy_majority": pytest.approx(2 / 3)},
    }
    calm = accuracy_by_regime(np.eye(3)[said], labels, np.zeros(6), trend_strength)
    assert calm["high"] == {"rows": 0.0, "accuracy": None, "accuracy_majority": None}

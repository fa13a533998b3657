"""V2 training: masking, exact contributions, and calibration on folds it has not seen."""

import numpy as np
import pytest

from meta_svc.inputs import FEATURE_NAMES_V2, build_inputs
from quantum_common.domain import AGENTS, Action
from quantum_common.models.serving import Graph
from quantum_research import TooLittleData
from quantum_research.dataset import Dataset
from quantum_research.meta import MetaModel, fit_linear, random_presence, train_meta, vote_inputs
from quantum_research.testing import synthetic_dataset
from quantum_research.walk_forward import OutOfFold

HOUR_MS = 3_600_000


def past_of(data: Dataset, skill: float, seed: int = 3) -> OutOfFold:
    """Agents that lean towards the true class by `skill`."""
    generator = np.random.default_rng(seed)
    probabilities = {}
    for agent in AGENTS:
        logits = generator.normal(size=(len(data), 3)) + skill * np.eye(3)[data.label]
        raw = np.exp(logits)
        probabilities[agent] = raw / raw.sum(axis=1, keepdims=True)
    return OutOfFold(
        data, probabilities, np.broadcast_to(data.class_shares(), (len(data), 3)), np.zeros(len(data), int)
    )


@pytest.fixture(scope="module")
def past() -> OutOfFold:
    return past_of(synthetic_dataset(rows_per_symbol=500), skill=1.5)


@pytest.fixture(scope="module")
def meta(past: OutOfFold) -> MetaModel:
    return train_meta(past, embargo_ms=5 * HOUR_MS, seed=42)


def test_f07_inputs_are_those_of_the_meta_service_row_by_row(past: OutOfFold) -> None:
    present = np.ones((len(past.data), 4), bool)
    present[0, 1] = False
    inputs = vote_inputs(past.probabilities, present, past.data.volatility, past.data.trend_strength)
    first = {agent: past.probabilities[agent][0] for agent in AGENTS}
    votes = {agent: (list(Action)[int(p.argmax())], float(p.max())) for agent, p in first.items()}
    votes[AGENTS[1]] = None
    expected = build_inputs(votes, float(past.data.volatility[0]), float(past.data.trend_strength[0]))
    assert inputs[0].tolist() == expected
    assert inputs.shape == (len(past.data), len(FEATURE_NAMES_V2))


def test_masking_leaves_somebody_and_hides_each_agent_in_a_share_of_the_rows() -> None:
    present = random_presence(4000, seed=1)
    assert present.any(axis=1).all()
    assert ((~present).mean(axis=0) > 0.1).all()
    assert ((~present).mean(axis=0) < 0.3).all()
    assert (present == random_presence(4000, seed=1)).all()


def test_a_masked_agent_is_all_zeros_in_the_inputs(past: OutOfFold) -> None:
    present = np.ones((len(past.data), 4), bool)
    present[:, 2] = False
    inputs = vote_inputs(past.probabilities, present, past.data.volatility, past.data.trend_strength)
    assert (inputs[:, 8:12] == 0.0).all()
    assert (inputs[:, :8].sum(axis=1) > 0.0).all()


def test_training_has_seen_absent_agents(past: OutOfFold, meta: MetaModel) -> None:
    everyone = vote_inputs(
        past.probabilities, np.ones((len(past.data), 4), bool), past.data.volatility, past.data.trend_strength
    )
    xgb_votes = slice(0, 3)
    assert everyone[:, xgb_votes].sum(axis=1).mean() == 1.0
    assert 0.8 < meta.linear.mean[xgb_votes].sum() < 0.95  # half of the rows with a share masked


def test_contributions_and_bias_sum_to_the_calibrated_logit_that_is_served(past: OutOfFold, meta: MetaModel) -> None:
    inputs = vote_inputs(
        past.probabilities, np.ones((len(past.data), 4), bool), past.data.volatility, past.data.trend_strength
    )[:200]
    linear, calibration = meta.linear, meta.calibration
    bias = linear.intercept / calibration.temperature + np.asarray(calibration.class_bias)
    logits = linear.contributions(inputs, calibration).sum(axis=2) + bias
    assert logits == pytest.approx(calibration.logits(linear.logits(inputs)), abs=1e-9)
    served = Graph(linear.export(calibration)).run(inputs.astype(np.float32))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(served - probabilities).max() < 1e-5


def test_stacked_agents_with_skill_beat_the_prior_on_folds_that_nothing_was_fitted_on(
    past: OutOfFold, meta: MetaModel
) -> None:
    label = past.data.label[meta.tested]
    loss = -np.log(meta.tested_probabilities[np.arange(len(label)), label]).mean()
    shares = np.bincount(label, minlength=3) / len(label)
    assert loss < -(shares * np.log(shares)).sum() - 0.1


def test_f30_tested_rows_come_after_the_first_folds(past: OutOfFold, meta: MetaModel) -> None:
    assert past.data.ts_ms[meta.tested].min() > np.quantile(past.data.ts_ms, 0.3)
    assert (np.diff(meta.tested) > 0).all()


def test_a_meta_fold_without_a_class_is_refused() -> None:
    with pytest.raises(TooLittleData):
        fit_linear(np.random.default_rng(1).normal(size=(20, 26)), np.array([0, 1] * 10, np.int8))

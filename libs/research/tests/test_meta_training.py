"""Training of the meta learners: masking, exact contributions, parity, and calibration on folds they have not seen."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from meta_svc.ensemble import DEFAULT_WEIGHTS
from meta_svc.versions import V1, V2, V2P
from quantum_common.domain import AGENTS
from quantum_common.models.serving import Graph
from quantum_research import TooLittleData
from quantum_research.artifacts import Candidate, Origin
from quantum_research.dataset import Dataset
from quantum_research.meta import RECIPES, MetaModel, Recipe, meta_folds, train_meta
from quantum_research.meta_artifacts import meta_candidate, meta_models
from quantum_research.meta_linear import LinearModel, fit_linear
from quantum_research.meta_network import NetworkModel, fit_perceptron
from quantum_research.metrics import log_loss
from quantum_research.testing import synthetic_dataset
from quantum_research.votes import VoteTable, out_of_fold_votes
from quantum_research.walk_forward import OutOfFold

HOUR_MS = 3_600_000
BY_NAME = {recipe.version.name: recipe for recipe in RECIPES}


def past_of(data: Dataset, skill: float, seed: int = 3) -> OutOfFold:
    """Agents that lean towards the true class by `skill`."""
    generator = np.random.default_rng(seed)
    probabilities = {}
    for agent in AGENTS:
        logits = generator.normal(size=(len(data), 3)) + skill * np.eye(3)[data.label]
        raw = np.exp(logits)
        probabilities[agent] = raw / raw.sum(axis=1, keepdims=True)
    prior = np.broadcast_to(data.class_shares(), (len(data), 3))
    return OutOfFold(data, probabilities, prior, np.zeros(len(data), np.intp))


@pytest.fixture(scope="module")
def past() -> OutOfFold:
    return past_of(synthetic_dataset(rows_per_symbol=500), skill=1.5)


@pytest.fixture(scope="module")
def table(past: OutOfFold) -> VoteTable:
    return out_of_fold_votes(past)


@pytest.fixture(scope="module")
def models(table: VoteTable) -> Mapping[str, MetaModel]:
    return {name: trained(table, recipe) for name, recipe in BY_NAME.items()}


@pytest.fixture(scope="module")
def candidates(past: OutOfFold, table: VoteTable, models: Mapping[str, MetaModel]) -> Mapping[str, Candidate]:
    made = [meta_candidate(model, table, origin_of(past.data)) for model in models.values()]
    return {candidate.manifest.agent: candidate for candidate in made}


def trained(table: VoteTable, recipe: Recipe) -> MetaModel:
    return train_meta(table, recipe, embargo_ms=5 * HOUR_MS, seed=42)


def origin_of(data: Dataset) -> Origin:
    return Origin("1h", 5, 0.015, "fixed", True, ("S0USDT",), int(data.ts_ms.min()), int(data.label_end_ms.max()))


def test_the_table_holds_every_agents_votes_in_their_order(past: OutOfFold, table: VoteTable) -> None:
    for number, agent in enumerate(AGENTS):
        assert (table.probabilities[:, number] == past.probabilities[agent]).all()
    assert table.present.all()
    assert table.inputs(V2.feature_names).shape == (len(past.data), 26)


def test_masking_is_seeded_hides_some_and_leaves_at_least_one_of_those_who_vote(table: VoteTable) -> None:
    once = table.masked(1)
    assert (once == table.masked(1)).all()
    assert not (once == table.masked(2)).all()
    assert once.any(axis=1).all()
    assert 0.05 < (~once.all(axis=1)).mean() < 0.1
    assert 0.01 < (~once).mean() < 0.03

    absent = table.present.copy()
    absent[:, 2] = False
    absent[::2] = [True, False, False, False]
    kept = replace(table, present=absent).masked(1)
    assert not (kept & ~absent).any()
    assert (kept[::2] == [True, False, False, False]).all()


def test_a_masked_agent_is_all_zeros_in_the_inputs(table: VoteTable) -> None:
    present = table.present.copy()
    present[:, 2] = False
    inputs = table.inputs(V2P.feature_names, present)
    assert (inputs[:, 8:12] == 0.0).all()
    assert (inputs[:, 32:35] == 0.0).all()
    assert (inputs[:, :8].sum(axis=1) > 0.0).all()
    assert (inputs[:, 26:32] < 0.0).all()


@pytest.mark.parametrize("recipe", RECIPES, ids=BY_NAME)
def test_training_has_seen_absent_agents(table: VoteTable, recipe: Recipe) -> None:
    seen = []

    def spy(inputs, labels, seed):  # type: ignore[no-untyped-def]
        seen.append(inputs)
        return recipe.fit(inputs, labels, seed)

    trained(table, replace(recipe, fit=spy))
    names = recipe.version.feature_names
    assert (table.inputs(names)[:, names.index("xgb_conf")] > 0.0).all()
    assert len(seen) == 6
    assert all((inputs[:, names.index("xgb_conf")] == 0.0).any() for inputs in seen)
    assert 0.7 * len(table) < max(map(len, seen)) < 0.9 * len(table)  # the rest calibrates, or lies beside what does


@pytest.mark.parametrize("name", ["v2", "v2p"])
def test_contributions_and_bias_sum_to_the_calibrated_logit_that_is_served(
    table: VoteTable, models: Mapping[str, MetaModel], name: str
) -> None:
    inputs = table.inputs(BY_NAME[name].version.feature_names)[:200]
    linear, calibration = models[name].fitted, models[name].calibration
    assert isinstance(linear, LinearModel)
    bias = linear.intercept / calibration.temperature + np.asarray(calibration.class_bias)
    logits = linear.contributions(inputs, calibration).sum(axis=2) + bias
    assert logits == pytest.approx(calibration.logits(linear.logits(inputs)), abs=1e-9)
    served = Graph(linear.export(calibration)).run(inputs.astype(np.float32))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(served - probabilities).max() < 1e-5


def test_v1_is_the_documented_network_and_its_graph_says_the_same(
    table: VoteTable, models: Mapping[str, MetaModel]
) -> None:
    network, calibration = models["v1"].fitted, models["v1"].calibration
    assert isinstance(network, NetworkModel)
    assert [weight.shape for weight, _ in network.layers] == [(32, 8), (32, 32), (3, 32)]
    assert network.parameters() == 1443
    inputs = table.inputs(V1.feature_names)
    served = Graph(network.export(calibration)).run(inputs.astype(np.float32))
    assert np.abs(served - models["v1"].probabilities(inputs)).max() < 1e-5
    assert network.linear_form(calibration) is None


@pytest.mark.parametrize("name", BY_NAME)
def test_the_same_votes_and_seed_give_the_same_model(
    table: VoteTable, models: Mapping[str, MetaModel], name: str
) -> None:
    again = trained(table, BY_NAME[name])
    assert again.fitted.export(again.calibration) == models[name].fitted.export(models[name].calibration)


@pytest.mark.parametrize("name", BY_NAME)
def test_stacked_agents_with_skill_beat_the_prior_and_each_agent_on_folds_that_nothing_was_fitted_on(
    table: VoteTable, models: Mapping[str, MetaModel], name: str
) -> None:
    meta = models[name]
    enough = slice(len(meta.tested) // 2, None)  # the first folds know a hundred bars only
    tested = table.take(meta.tested[enough])
    loss = log_loss(meta.tested_probabilities[enough], tested.label)
    assert loss < log_loss(tested.prior, tested.label) - 0.1
    assert loss < min(log_loss(tested.agent_probabilities(agent), tested.label) for agent in AGENTS)


@pytest.mark.parametrize("name", BY_NAME)
def test_labels_without_a_relation_to_the_votes_teach_nothing(table: VoteTable, name: str) -> None:
    shuffled = replace(table, label=np.random.default_rng(1).permutation(table.label))
    meta = trained(shuffled, BY_NAME[name])
    tested = shuffled.take(meta.tested)
    shares = np.bincount(tested.label, minlength=3) / len(tested)
    assert log_loss(meta.tested_probabilities, tested.label) > -(shares * np.log(shares)).sum() - 0.01


def test_f30_tested_rows_come_after_the_first_folds(table: VoteTable, models: Mapping[str, MetaModel]) -> None:
    for meta in models.values():
        assert table.ts_ms[meta.tested].min() >= np.quantile(table.ts_ms, 0.19)
        assert (np.diff(meta.tested) > 0).all()


def test_f30_five_folds_whose_labels_ended_an_embargo_before_the_fold(table: VoteTable) -> None:
    splits = meta_folds(table, 5 * HOUR_MS)
    assert len(splits) == 5
    for split in splits:
        assert table.label_end_ms[split.past].max() + 5 * HOUR_MS <= table.ts_ms[split.future].min()


@pytest.mark.parametrize("fit", [fit_linear, fit_perceptron])
def test_a_meta_fold_without_a_class_is_refused(fit) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TooLittleData):
        fit(np.random.default_rng(1).normal(size=(20, 26)), np.array([0, 1] * 10, np.int8), 1)


def test_the_weighted_vote_knows_actions_and_confidences_only(table: VoteTable) -> None:
    present = np.array([[True, False, False, True]])
    votes = np.array([[[0.1, 0.7, 0.2], [np.nan] * 3, [np.nan] * 3, [0.15, 0.25, 0.6]]])
    one = replace(table.take(np.arange(1)), present=present, probabilities=votes, prior=np.array([[0.2, 0.5, 0.3]]))
    xgb, patchtst = DEFAULT_WEIGHTS["xgb"], DEFAULT_WEIGHTS["patchtst"]
    hold, buy = np.array([0.3 * 0.4, 0.7, 0.3 * 0.6]), np.array([0.4 * 2 / 7, 0.4 * 5 / 7, 0.6])
    assert one.weighted_vote()[0] == pytest.approx((xgb * hold + patchtst * buy) / (xgb + patchtst))


def test_the_mean_probability_is_that_of_those_present_by_their_weights(table: VoteTable) -> None:
    present = table.present.copy()
    present[0] = [True, False, False, True]
    probabilities = table.probabilities.copy()
    probabilities[0, 1] = np.nan
    said = replace(table, present=present, probabilities=probabilities).mean_probability()
    xgb, patchtst = DEFAULT_WEIGHTS["xgb"], DEFAULT_WEIGHTS["patchtst"]
    first, last = table.probabilities[0, 0], table.probabilities[0, 3]
    assert said[0] == pytest.approx((xgb * first + patchtst * last) / (xgb + patchtst))
    everyone = sum(DEFAULT_WEIGHTS[agent] * table.probabilities[1, n] for n, agent in enumerate(AGENTS))
    assert said[1] == pytest.approx(everyone)
    assert said.sum(axis=1) == pytest.approx(1.0)


def test_an_absent_agent_is_judged_by_the_prior_on_the_same_rows(table: VoteTable) -> None:
    present = table.present.copy()
    present[:, 0] = [False, *[True] * (len(table) - 1)]
    judged = replace(table, present=present).agent_probabilities("xgb")
    assert (judged[0] == table.prior[0]).all()
    assert (judged[1:] == table.probabilities[1:, 0]).all()


def test_candidates_are_the_three_learners_with_their_baselines(candidates: Mapping[str, Candidate]) -> None:
    assert list(candidates) == ["meta", "meta-v2p", "meta-v1"]
    for candidate in candidates.values():
        metrics = candidate.manifest.metrics
        agents = [metrics[f"log_loss_{agent}"] for agent in AGENTS]
        assert metrics["log_loss_best_agent"] == min(agents)
        assert metrics["log_loss_mean_probability"] < metrics["log_loss_best_agent"]  # their errors are independent
        assert metrics["log_loss"] < metrics["log_loss_prior"]
        assert set(metrics["regimes"]) == {"low", "medium", "high", "trending", "ranging"}
        assert candidate.parity <= 1e-5
    assert len({candidate.manifest.metrics["log_loss_xgb"] for candidate in candidates.values()}) == 1
    assert candidates["meta-v1"].manifest.linear is None
    assert candidates["meta-v1"].manifest.parameters == 1443


def test_votes_with_gaps_make_candidates_too(table: VoteTable, past: OutOfFold) -> None:
    sparse = replace(table, present=table.masked(7))
    for model in meta_models(sparse, embargo_ms=5 * HOUR_MS, seed=42):
        candidate = meta_candidate(model, sparse, origin_of(past.data))
        assert np.isfinite(candidate.manifest.metrics["log_loss"])

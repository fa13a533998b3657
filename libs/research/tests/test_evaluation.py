"""Every figure of the evaluation against a plain computation, a known answer or another library."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from quantum_research import ResearchError
from quantum_research.bootstrap import DAY_MS, DayBlocks, Estimate
from quantum_research.diversity import diversity, q_statistic
from quantum_research.evaluation import evaluate_models
from quantum_research.labels import BUY, HOLD, SELL
from quantum_research.reliability import reliability
from quantum_research.scores import macro_f1
from quantum_research.testing import synthetic_dataset, synthetic_votes
from quantum_research.walk_forward import OutOfFold

ROWS = synthetic_votes(synthetic_dataset(rows_per_symbol=900), knowledge={"good": 0.6, "weak": 0.1, "none": 0.0})
FOUND = evaluate_models(ROWS, resamples=300)


def test_a_model_that_knows_something_beats_the_prior_and_one_that_knows_nothing_does_not() -> None:
    assert FOUND.models["good"].overall.gain.above_zero
    assert not FOUND.models["none"].overall.gain.above_zero
    assert FOUND.best() == "good"
    overall = FOUND.models["good"].overall
    assert overall.gain.value == pytest.approx(overall.log_loss_prior - overall.log_loss)
    assert overall.brier_gain.value == pytest.approx(overall.brier_prior - overall.brier)


def test_parts_are_the_rows_they_say_and_add_up_to_the_whole() -> None:
    model = FOUND.models["weak"]
    assert set(model.regimes) == {"low", "medium", "high", "trending", "ranging"}
    for parts in (model.folds, model.symbols, {name: model.regimes[name] for name in ("low", "medium", "high")}):
        assert sum(part.rows for part in parts.values()) == FOUND.rows
        weighted = sum(part.rows * part.log_loss for part in parts.values()) / FOUND.rows
        assert weighted == pytest.approx(model.overall.log_loss)
    one = ROWS.data.take(np.flatnonzero(ROWS.data.symbol == 1))
    mine = replace(ROWS, data=one, **{name: getattr(ROWS, name)[ROWS.data.symbol == 1] for name in ("prior", "fold")})
    mine = replace(mine, probabilities={"weak": ROWS.probabilities["weak"][ROWS.data.symbol == 1]})
    alone = evaluate_models(mine, resamples=10).models["weak"].overall
    assert alone.macro_f1 == model.symbols["S1USDT"].macro_f1
    assert alone.auc_move is not None
    assert model.symbols["S1USDT"].auc_move is not None
    assert alone.auc_move.value == model.symbols["S1USDT"].auc_move.value


def test_areas_under_curves_and_macro_f1_are_those_of_scikit_learn_with_ties_too() -> None:
    label, p = ROWS.data.label, np.round(ROWS.probabilities["weak"], 2)
    blocks = DayBlocks(ROWS.data.ts_ms, resamples=50, seed=1)
    everything = np.ones(len(label), bool)
    found = blocks.auc(p[:, BUY] + p[:, SELL], label != HOLD, everything, resamples=50)
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(label != HOLD, p[:, BUY] + p[:, SELL]))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert blocks.auc(p[:, BUY], label != HOLD, label == HOLD, resamples=50) is None
    overall, p, moved = FOUND.models["weak"].overall, ROWS.probabilities["weak"], label != HOLD
    assert overall.auc_move is not None
    assert overall.auc_direction is not None
    assert overall.auc_move.value == pytest.approx(roc_auc_score(moved, p[:, BUY] + p[:, SELL]))
    up = p[moved, BUY] / (p[moved, BUY] + p[moved, SELL])
    assert overall.auc_direction.value == pytest.approx(roc_auc_score(label[moved] == BUY, up))
    actions = p.argmax(axis=1)
    assert macro_f1(actions, label) == pytest.approx(f1_score(label, actions, average="macro"))


def test_an_interval_by_day_is_wider_than_its_rows_would_have_it_when_a_day_agrees_with_itself() -> None:
    generator = np.random.default_rng(3)
    of_day = generator.normal(size=200)
    values = np.repeat(of_day, 24)
    ts_ms = np.arange(200 * 24, dtype=np.int64) * (DAY_MS // 24)
    found = DayBlocks(ts_ms, resamples=2000, seed=1).mean(values)
    assert found.value == pytest.approx(of_day.mean())
    assert found.low is not None
    assert found.high is not None
    expected = 1.96 * of_day.std() / np.sqrt(200)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.1)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(4)
    ts_ms = np.repeat(np.arange(150, dtype=np.int64) * DAY_MS, 4)
    hits = 0
    for seed in range(200):
        values = np.repeat(generator.normal(size=150), 4) + generator.normal(size=600)
        hits += DayBlocks(ts_ms, resamples=300, seed=seed).mean(values).contains_zero
    assert 0.89 <= hits / 200 <= 0.985


def test_too_few_days_give_a_number_without_an_interval() -> None:
    blocks = DayBlocks(np.arange(48, dtype=np.int64) * (DAY_MS // 24), resamples=100, seed=0)
    assert blocks.mean(np.ones(48)) == Estimate(1.0)


def test_confidence_that_is_too_high_shows_as_error_and_as_a_gap_at_the_top() -> None:
    generator = np.random.default_rng(5)
    ts_ms = np.arange(20_000, dtype=np.int64) * (DAY_MS // 24)
    truth = generator.uniform(0.35, 0.85, 20_000)
    right = generator.random(20_000) < truth
    blocks = DayBlocks(ts_ms, resamples=300, seed=1)
    honest = reliability(truth, right, blocks)
    boastful = reliability(truth + 0.1, right, blocks)
    assert honest.error < 0.015
    assert honest.top.gap.contains_zero
    assert honest.top.rows == 200
    assert boastful.error == pytest.approx(0.1, abs=0.015)
    assert boastful.top.gap.above_zero
    assert sum(b.rows for b in honest.curve) == 20_000


def test_paired_differences_are_those_of_the_log_losses_in_both_directions() -> None:
    models = FOUND.models
    forward = FOUND.gain_difference("good", "weak")
    assert forward.value == pytest.approx(models["weak"].overall.log_loss - models["good"].overall.log_loss)
    assert forward.above_zero
    backward = FOUND.gain_difference("weak", "good")
    assert (backward.value, backward.low, backward.high) == (
        -forward.value,
        -(forward.high or 0.0),
        -(forward.low or 0.0),
    )
    with pytest.raises(KeyError, match="other"):
        FOUND.gain_difference("good", "other")


def test_diversity_of_copies_opposites_and_strangers() -> None:
    assert q_statistic(np.array([True, True, False, False]), np.array([True, True, False, False])) == 1.0
    assert q_statistic(np.array([True, True, False, False]), np.array([False, False, True, True])) == -1.0
    assert q_statistic(np.ones(3, bool), np.ones(3, bool)) is None
    votes = ROWS.probabilities
    copies = {"one": votes["good"], "copy": votes["good"], "stranger": votes["none"]}
    loss = {name: np.arange(float(len(p))) for name, p in copies.items()}
    found = diversity(copies, loss, ROWS.data.label)
    assert found.disagreement[0][1] == 0.0
    assert found.error_correlation[0][1] == pytest.approx(1.0)
    assert found.disagreement[0][2] == float((votes["good"].argmax(1) != votes["none"].argmax(1)).mean())
    assert found.loss_correlation[0][2] == pytest.approx(1.0)


def test_the_same_rows_and_seed_give_the_same_evaluation() -> None:
    assert evaluate_models(ROWS, resamples=300) == FOUND


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": {}}, "at least one row and one model"),
        ({"probabilities": {"good": ROWS.probabilities["good"][:-1]}}, r"good: probabilities of shape \(1799, 3\)"),
        ({"probabilities": {"good": ROWS.probabilities["good"] * 2.0}}, "good: rows that are not three probabilities"),
        ({"prior": ROWS.prior * np.nan}, "prior: rows that are not"),
        ({"fold": ROWS.fold[:-1]}, "fold: shape"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change: dict[str, object], message: str) -> None:
    given: OutOfFold = replace(ROWS, **change)  # type: ignore[arg-type]
    with pytest.raises(ResearchError, match=message):
        evaluate_models(given)

"""Every planted leak is noticed, by checks that do not know of it; the pipeline as it is is not flagged."""

from collections.abc import Mapping
from dataclasses import replace

import msgspec
import numpy as np
import pytest

import lgbm_agent.train
import patchtst_agent.train
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort, Trainer
from quantum_research.leak_evidence import (
    largest_change_by_start,
    largest_moved_prediction,
    rows_moved_by_the_future,
    share_asked_too_early,
)
from quantum_research.leak_pipeline import Market, Pipeline, Witness, altered, builder
from quantum_research.leak_plants import PROBE, ProbeTrainer, scale_of_everything
from quantum_research.leaks import LeakReport, check_leaks
from quantum_research.testing import HOUR_MS, synthetic_candles
from quantum_research.walk_forward import OutOfFold, Step, out_of_fold

MARKET = {f"S{seed}USDT": synthetic_candles(2600, seed) for seed in (0, 1)}
LABEL = {"horizon_bars": 5, "threshold": 0.015}
BUILD = builder("1h", 5, 0.015)
TRAINERS: Mapping[str, Trainer] = {"lgbm": lgbm_agent.train.TRAINER, "patchtst": patchtst_agent.train.TRAINER}
LGBM = {"lgbm": lgbm_agent.train.TRAINER}
EFFORT = Effort(max_trees=30, patience_trees=8, max_epochs=1, patience_epochs=1, folds=2)


@pytest.fixture(scope="module")
def report() -> LeakReport:
    return check_leaks(MARKET, "1h", TRAINERS, **LABEL, effort=EFFORT)


@pytest.mark.parametrize("name", ["warmup", "future_column", "too_good", "shuffled_split", "scaler"])
def test_f30_a_planted_leak_is_caught_and_the_clean_pipeline_is_not_flagged(report: LeakReport, name: str) -> None:
    check = report.checks[name]
    assert check.caught
    assert not check.clean_flagged
    assert report.passed


def test_f30_the_json_gives_both_scores_and_the_verdict_of_each_check(report: LeakReport) -> None:
    shown = msgspec.json.decode(msgspec.json.encode(report.as_json()))
    assert shown["passed"] is True
    assert list(shown["checks"]) == ["warmup", "future_column", "too_good", "shuffled_split", "scaler"]
    for check in shown["checks"].values():
        assert check["caught"] is True
        assert check["clean_flagged"] is False
        assert isinstance(check["clean"], float)
        assert isinstance(check["planted"], float)
    column = shown["checks"]["future_column"]
    assert column["planted"] > 10 * abs(column["clean"])


def test_f30_a_leak_in_the_pipelines_own_dataset_fails_the_checks() -> None:
    def tomorrow(market: Market) -> Dataset:
        """The regime of a bar is that of the next one: a small leak in a place that no plant uses."""
        data = BUILD(market)
        return replace(data, trend_strength=np.roll(data.trend_strength, -2))

    report = check_leaks(MARKET, "1h", LGBM, **LABEL, effort=EFFORT, build=tomorrow)
    assert report.checks["future_column"].clean_flagged
    assert not report.passed


def test_f30_a_scaler_in_front_of_the_split_moves_the_past() -> None:
    def scaled(market: Market) -> Dataset:
        data = BUILD(market)
        vectors = data.vectors.copy()
        vectors[:, 2:] = (vectors[:, 2:] - vectors[:, 2:].mean(axis=0)) / vectors[:, 2:].std(axis=0)
        return replace(data, vectors=vectors)

    specs = [trainer.model for trainer in TRAINERS.values()]
    assert rows_moved_by_the_future(scaled, specs, MARKET) > 0
    assert rows_moved_by_the_future(BUILD, specs, MARKET) == 0


def test_f30_a_split_without_purge_is_noticed_though_it_is_in_order_of_time() -> None:
    def unpurged(
        trainers: Mapping[str, Trainer], data: Dataset, effort: Effort, embargo_ms: int, step: Step
    ) -> OutOfFold:
        return out_of_fold(trainers, replace(data, label_end_ms=data.ts_ms + HOUR_MS), effort, 0, step)

    def without_embargo(
        trainers: Mapping[str, Trainer], data: Dataset, effort: Effort, embargo_ms: int, step: Step
    ) -> OutOfFold:
        return out_of_fold(trainers, data, effort, 0, step)

    assert share_asked_too_early(Pipeline(BUILD, LGBM, unpurged), MARKET, EFFORT) > 0.0
    assert share_asked_too_early(Pipeline(BUILD, LGBM, without_embargo), MARKET, EFFORT) > 0.0
    assert share_asked_too_early(Pipeline(BUILD, LGBM), MARKET, EFFORT) == 0.0


def test_f30_a_scaler_of_everything_moves_predictions_on_the_past_and_one_of_the_training_part_does_not() -> None:
    def moved(trainer: Trainer) -> float:
        return largest_moved_prediction(Pipeline(BUILD, {PROBE: trainer}), MARKET, EFFORT)

    assert moved(ProbeTrainer()) == 0.0
    assert moved(ProbeTrainer(scale_of_everything)) > 1e-4


def test_f30_features_of_a_bar_do_not_depend_on_the_start_once_the_warm_up_is_long_enough() -> None:
    def change(warmup_bars: int) -> float:
        return largest_change_by_start(builder("1h", 5, 0.015, warmup_bars=warmup_bars), MARKET)

    assert change(1000) < 1e-6
    assert change(400) > 1e-6  # the volatility is a rank among 500 bars
    assert change(50) > change(400)


def test_another_future_leaves_the_past_as_it_was_and_stays_a_market() -> None:
    cut_ms = int(MARKET["S0USDT"].ts[2000])
    other = altered(MARKET, cut_ms, seed=1)["S0USDT"]
    before = MARKET["S0USDT"]
    for name in ("open", "high", "low", "close", "volume"):
        assert (getattr(other, name)[:2000] == getattr(before, name)[:2000]).all()
        assert (getattr(other, name)[2000:] != getattr(before, name)[2000:]).all()
    assert (other.low <= np.minimum(other.open, other.close)).all()
    assert (other.high >= np.maximum(other.open, other.close)).all()


def test_the_witness_tells_apart_what_a_model_has_seen_from_what_it_is_asked() -> None:
    data = BUILD(MARKET)
    witness = Witness(lgbm_agent.train.TRAINER, data)
    first, second, third = (data.take(np.arange(*part)) for part in ((0, 800), (900, 1000), (1100, 1200)))
    watched = witness.fit(first, second, EFFORT)
    watched.logits(third)
    assert (witness.asked_rows, witness.asked_too_early) == (200, 0)
    watched.logits(second)  # the rows it was stopped on
    assert (witness.asked_rows, witness.asked_too_early) == (200, 0)
    watched.logits(data.take(np.arange(850, 880)))
    assert witness.asked_too_early == 30
    between = data.take(np.concatenate([np.arange(0, 500), np.arange(700, 1200)]))
    witness.fit(between, data.take(np.arange(550, 650)), EFFORT)  # held out in the middle, and apart
    assert witness.asked_too_early == 30
    witness.fit(between, data.take(np.arange(650, 700)), EFFORT)  # labels of the last of them reach into the rest
    assert witness.asked_too_early > 30

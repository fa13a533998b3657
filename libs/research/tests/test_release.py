"""Champion against challenger: what wins, what does not, and what is not even compared."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

import lgbm_agent.train
from quantum_common.features import FEATURE_NAMES, feature_hash
from quantum_common.models import publish
from quantum_common.models.serving import LoadedModel, load
from quantum_research.artifacts import Origin, verified
from quantum_research.calibration import Calibration
from quantum_research.dataset import Dataset
from quantum_research.forecaster import model_input
from quantum_research.release import MIN_DAYS, MIN_ROWS, NotComparable, Verdict, compare, fresh_rows, judge
from quantum_research.testing import HOUR_MS, TINY, synthetic_dataset

ROWS, FEE_BPS = 24 * 60, 5.0
RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 3, ROWS).astype(np.int8)
CHANGE = np.array([-0.02, 0.0, 0.02])[LABELS]
TS_MS = 1_700_000_000_000 + HOUR_MS * np.arange(ROWS)


def knowing(share: float, seed: int = 0, labels: np.ndarray = LABELS) -> np.ndarray:
    """Probabilities that favour the right class on a share of the rows and a random one on the others."""
    random = np.random.default_rng(seed)
    favoured = np.where(random.random(len(labels)) < share, labels, random.integers(0, 3, len(labels)))
    return 0.25 + 0.25 * np.eye(3)[favoured]


def judged(champion: np.ndarray, challenger: np.ndarray, rows: slice = slice(None), **changes: Any) -> Verdict:
    values = {"labels": LABELS, "change": CHANGE, "ts_ms": TS_MS} | changes
    return judge(champion[rows], challenger[rows], *(values[name][rows] for name in values), fee_bps=FEE_BPS)


def test_a_challenger_that_knows_more_and_earns_more_wins() -> None:
    verdict = judged(knowing(0.2), knowing(0.6))
    assert (verdict.winner, verdict.reason) == ("challenger", "better")
    assert verdict.gain == pytest.approx(verdict.champion_log_loss - verdict.challenger_log_loss)
    assert 0 < verdict.gain_low < verdict.gain < verdict.gain_high
    assert verdict.challenger_net > verdict.champion_net
    assert (verdict.rows, verdict.days) == (ROWS, 61)


def test_a_challenger_that_knows_less_loses() -> None:
    verdict = judged(knowing(0.6), knowing(0.2))
    assert (verdict.winner, verdict.reason) == ("champion", "log_loss")


def test_the_same_model_again_does_not_win() -> None:
    assert judged(knowing(0.4), knowing(0.4)).reason == "log_loss"


def test_a_gain_that_may_as_well_be_a_loss_is_none() -> None:
    verdict = judged(knowing(0.4, 4), knowing(0.4, 3))
    assert verdict.gain > 0
    assert verdict.gain_low < -verdict.gain
    assert (verdict.winner, verdict.reason) == ("champion", "log_loss")


def test_a_gain_wins_when_a_loss_as_large_is_ruled_out() -> None:
    verdict = judged(knowing(0.4, 4), knowing(0.4, 2))
    assert -verdict.gain < verdict.gain_low < 0
    assert (verdict.winner, verdict.reason) == ("challenger", "better")


def test_knowing_more_does_not_help_when_the_signals_lose_money() -> None:
    verdict = judged(knowing(0.2), knowing(0.6), change=-CHANGE)
    assert (verdict.winner, verdict.reason) == ("champion", "net_result")


def test_the_net_result_is_the_sum_over_signals_with_a_fee_on_each_side() -> None:
    sure = np.array([0.8, 0.1, 0.1]), np.array([0.1, 0.8, 0.1]), np.array([0.1, 0.1, 0.8]), np.array([0.34, 0.33, 0.33])
    probabilities = np.array(sure)
    change = np.array([-0.01, 0.5, 0.03, -0.5])
    verdict = judge(probabilities, probabilities, np.zeros(4, np.int8), change, np.arange(4), fee_bps=10)
    assert verdict.champion_signals == 2
    assert verdict.champion_net == pytest.approx(0.01 + 0.03 - 2 * 0.002)


def test_f08_a_collapsed_challenger_does_not_win_however_bad_the_champion_is() -> None:
    constant = np.tile([1 / 3, 1 / 3, 1 / 3], (ROWS, 1))
    confident_and_wrong = 0.01 + 0.97 * np.eye(3)[(LABELS + 1) % 3]
    verdict = judged(confident_and_wrong, constant)
    assert verdict.gain > 1
    assert (verdict.winner, verdict.reason) == ("champion", "collapsed")


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, MIN_ROWS - 1), slice(0, 24 * (MIN_DAYS - 1))])
def test_too_few_fresh_rows_decide_nothing(rows: slice) -> None:
    verdict = judged(knowing(0.2), knowing(0.9), rows)
    assert (verdict.winner, verdict.reason) == ("undecided", "too_few_rows")


def test_many_rows_of_a_few_days_decide_nothing() -> None:
    assert judged(knowing(0.2), knowing(0.9), ts_ms=TS_MS // 24).reason == "too_few_rows"


def test_the_same_rows_give_the_same_interval() -> None:
    assert judged(knowing(0.2), knowing(0.6)) == judged(knowing(0.2), knowing(0.6))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_dataset(rows_per_symbol=600)


Make = Callable[..., LoadedModel]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Make:
    """A real artifact trained on the first quarter of the rows; `changes` go into its manifest."""
    trainer, known, folder = (
        lgbm_agent.train.TRAINER,
        data.take(np.arange(len(data) // 4)),
        tmp_path_factory.mktemp("m"),
    )
    fitted, calibration = trainer.fit(known, known, TINY), Calibration(1.0, (0.0, 0.0, 0.0))
    metrics = {"accuracy": 1, "accuracy_majority": 0, "log_loss": 0, "log_loss_prior": 1, "log_loss_prior_hindsight": 1}
    candidate = verified(
        fitted.export(calibration), model_input(trainer.model, known), calibration.probabilities(fitted.logits(known)),
        origin=Origin("1h", 5, 0.015, "fixed", True, data.symbols, 0, int(known.label_end_ms.max())),
        metrics={**metrics, "p_hold_range": 1.0}, libraries=(), agent="lgbm", kind="row", view="relative",
        feature_hash=feature_hash("relative"), feature_names=FEATURE_NAMES, window_bars=1,
        parameters=fitted.parameters(),
    )  # fmt: skip

    def made(version: str, **changes: Any) -> LoadedModel:
        manifest = msgspec.structs.replace(candidate.manifest, version=version, **changes)
        publish(folder, manifest, candidate.onnx_bytes)
        return load(folder, "lgbm", version=version)

    return made


def test_two_artifacts_are_compared_on_rows_that_neither_has_seen(data: Dataset, make: Make) -> None:
    champion = make("c1")
    later_ms = int(data.ts_ms[len(data) // 2])
    verdict = compare(champion, make("c2", labels_to_ms=later_ms), data, fee_bps=FEE_BPS)
    assert verdict.rows == int((data.ts_ms >= later_ms + 5 * HOUR_MS).sum()) > MIN_ROWS
    assert (verdict.gain, verdict.winner) == (0.0, "champion")
    assert verdict.champion_log_loss == verdict.challenger_log_loss


def test_f30_no_row_within_a_horizon_after_the_last_known_label_is_fresh(data: Dataset, make: Make) -> None:
    manifest = make("f1").manifest
    fresh = data.ts_ms[fresh_rows(data.ts_ms, manifest)]
    assert fresh.min() >= manifest.labels_to_ms + 5 * HOUR_MS
    assert manifest.labels_to_ms in data.ts_ms


@pytest.mark.parametrize("change", [{"timeframe": "4h"}, {"horizon_bars": 3}, {"label_threshold": 0.006}])
def test_models_of_different_labels_are_not_compared(data: Dataset, make: Make, change: dict[str, Any]) -> None:
    [name] = change
    with pytest.raises(NotComparable, match=name):
        compare(make(f"{name}-1"), make(f"{name}-2", **change), data, fee_bps=FEE_BPS)


def test_data_labelled_over_another_horizon_is_refused(data: Dataset, make: Make) -> None:
    with pytest.raises(NotComparable, match="labelled over 5 bars"):
        compare(make("h1", horizon_bars=3), make("h2", horizon_bars=3), data, fee_bps=FEE_BPS)


def test_meta_models_are_not_compared_on_features(data: Dataset, make: Make) -> None:
    model = make("m1")
    meta = LoadedModel(msgspec.structs.replace(model.manifest, kind="meta"), model.graph)
    with pytest.raises(NotComparable, match="votes"):
        compare(model, meta, data, fee_bps=FEE_BPS)


def test_too_few_rows_after_both_models_are_undecided(data: Dataset, make: Make) -> None:
    late = make("late", labels_to_ms=int(data.ts_ms[-1]))
    assert compare(make("early"), late, data, fee_bps=FEE_BPS).winner == "undecided"

"""The whole of training on synthetic candles, with the four real agents."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import lgbm_agent.train
import patchtst_agent.train
import xgb_agent.train
from meta_svc.serving import load_meta
from meta_svc.versions import V2, V2P, VERSIONS, MetaVersion
from quantum_common.agent.spec import ModelSpec
from quantum_common.candles import CandleFileError, write_candles
from quantum_common.domain import AGENTS
from quantum_common.features import feature_hash
from quantum_common.models import ModelRefused, current_version, read_manifest, rollback
from quantum_common.models.serving import load
from quantum_common.models.store import read_artifact
from quantum_research import ResearchError, TooLittleData
from quantum_research.artifacts import Candidate, publish_all, quality
from quantum_research.forecaster import ENTRY_POINT_GROUP, Trainer, check_trainers, load_trainers
from quantum_research.report import read_report
from quantum_research.testing import TINY, synthetic_candles, synthetic_dataset
from quantum_research.train import TrainReport, TrainRequest, train

# Trees in the place of the networks, whose fitting and export have tests of their own and take a minute.
TREES = {
    "xgb": xgb_agent.train.TRAINER,
    "lgbm": lgbm_agent.train.TRAINER,
    "nhits": lgbm_agent.train.LgbmTrainer(ModelSpec(agent="nhits", input_kind="row", view="relative")),
    "patchtst": xgb_agent.train.XgbTrainer(ModelSpec(agent="patchtst", input_kind="row", view="relative")),
}
WITH_A_NETWORK = {**TREES, "patchtst": patchtst_agent.train.TRAINER}
BASELINES = ("weighted_vote", "mean_probability")
BARS = 2400
SYMBOLS = ("AAAUSDT", "BBBUSDT")
METAS = tuple(version.folder for version in VERSIONS.values())


class Run:
    """One training run in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.stages: list[tuple[str, float]] = []
        for seed, symbol in enumerate(SYMBOLS):
            write_candles(folder, "binance", symbol, "1h", synthetic_candles(BARS, seed))
        self.to_ms = int(synthetic_candles(BARS, 0).ts[-50])
        self.request = TrainRequest(
            data_dir=folder,
            venue="binance",
            symbols=SYMBOLS,
            timeframe="1h",
            models_dir=folder / "models",
            report_dir=folder / "report",
            to_ms=self.to_ms,
            quick=True,
            parameters={"xgb": {"max_depth": 4}},
        )
        self.report = self.train(self.request, WITH_A_NETWORK)

    def train(self, request: TrainRequest, trainers: Mapping[str, Trainer]) -> TrainReport:
        return train(request, lambda stage, share: self.stages.append((stage, share)), trainers)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("train"))


@pytest.mark.parametrize("agent", AGENTS)
def test_f07_every_agent_can_be_loaded_by_serving_code_and_only_with_its_feature_hash(run: Run, agent: str) -> None:
    model = load(run.request.models_dir, agent, expected_view="relative", expected_timeframe="1h")
    assert model.manifest.version == run.report.models[agent].version
    assert model.manifest.metrics["log_loss_prior"] > 0.0
    with pytest.raises(ModelRefused, match="feature_hash"):
        load(run.request.models_dir, agent, expected_feature_hash=lambda view: feature_hash(view, warmup_bars=999))


def test_every_meta_learner_is_published_and_passes_the_checks_of_its_service(run: Run) -> None:
    for meta in VERSIONS.values():
        served = load_meta(run.request.models_dir / meta.folder, meta, "1h")
        assert served.version == run.report.models[meta.folder].version
        assert (served.linear is not None) is meta.linear
    hidden_layers = 8 * 32 + 32 + 32 * 32 + 32 + 32 * 3 + 3
    assert read_manifest(run.request.models_dir, "meta-v1").parameters == hidden_layers


def test_the_hyperparameters_of_the_request_are_those_of_the_manifest(run: Run) -> None:
    used = {agent: read_manifest(run.request.models_dir, agent).metrics["parameters"] for agent in AGENTS}
    assert used["xgb"] == {**asdict(TREES["xgb"].parameters), "max_depth": 4}
    assert used["lgbm"] == asdict(TREES["lgbm"].parameters)


@pytest.mark.parametrize("meta", [V2, V2P])
def test_the_meta_artifact_carries_the_linear_form_it_serves(run: Run, meta: MetaVersion) -> None:
    model = load_meta(run.request.models_dir / meta.folder, meta).loaded
    linear = model.manifest.linear
    assert linear is not None
    inputs = np.array(model.manifest.golden.inputs)
    logits = (inputs - linear.mean) / linear.scale @ np.array(linear.coefficients).T + linear.intercept
    calibrated = logits / linear.temperature + linear.class_bias
    probabilities = np.exp(calibrated) / np.exp(calibrated).sum(axis=1, keepdims=True)
    assert probabilities == pytest.approx(np.array(model.manifest.golden.probabilities), abs=1e-5)


def test_no_label_reaches_beyond_the_end_of_the_range(run: Run) -> None:
    assert run.report.labels_to_ms == run.to_ms
    for agent in (*AGENTS, *METAS):
        manifest = read_manifest(run.request.models_dir, agent)
        assert manifest.labels_to_ms <= run.to_ms
        assert manifest.data_from_ms < manifest.labels_to_ms


def test_training_again_gives_the_same_bytes_and_versions(run: Run) -> None:
    once, twice = (
        replace(run.request, models_dir=run.request.models_dir.with_name(name), report_dir=None)
        for name in ("once", "twice")
    )
    first, second = run.train(once, TREES), run.train(twice, TREES)
    for agent in (*AGENTS, *METAS):
        assert read_artifact(once.models_dir, agent) == read_artifact(twice.models_dir, agent), agent
        assert first.models[agent] == second.models[agent]
    assert run.train(once, TREES).models == first.models  # and over itself: the version is there already


def test_progress_rises_from_nothing_to_done(run: Run) -> None:
    first = run.stages[: 1 + run.stages.index(("done", 1.0))]
    shares = [share for _, share in first]
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert {f"{agent} final" for agent in AGENTS} <= {stage for stage, _ in first}


def test_the_report_is_json_with_baselines(run: Run) -> None:
    assert run.request.report_dir is not None
    report = json.loads((run.request.report_dir / "train.json").read_text())
    assert report == json.loads(json.dumps(run.report.as_json()))
    for agent in (*AGENTS, *METAS):
        metrics = report["models"][agent]["metrics"]
        assert {"accuracy_majority", "log_loss_prior", "balanced_accuracy", "brier", "calibration_error"} <= set(
            metrics
        )
        assert report["models"][agent]["parity"] <= 1e-5


def test_f31_an_unproven_model_does_not_replace_a_proven_one_of_the_same_label(run: Run, tmp_path: Path) -> None:
    manifest, onnx_bytes = read_artifact(run.request.models_dir, "xgb")

    def candidate(version: str, **changes: object) -> Candidate:
        return Candidate(msgspec.structs.replace(manifest, version=version, **changes), onnx_bytes, 0.0)

    assert publish_all(tmp_path, [candidate("1", quality="unproven")], at_ms=1) == {"xgb": True}  # better than none
    assert publish_all(tmp_path, [candidate("2", quality="proven")], at_ms=1) == {"xgb": True}
    assert publish_all(tmp_path, [candidate("3", quality="unproven")], at_ms=1) == {"xgb": False}
    assert current_version(tmp_path, "xgb") == "2"
    assert publish_all(tmp_path, [candidate("4", quality="unproven", label_threshold=0.004)], at_ms=1) == {"xgb": True}


def test_f31_a_version_that_was_rolled_back_is_not_promoted_again_by_training(run: Run, tmp_path: Path) -> None:
    manifest, onnx_bytes = read_artifact(run.request.models_dir, "xgb")
    candidates = [
        Candidate(msgspec.structs.replace(manifest, version=version, quality="proven"), onnx_bytes, 0.0)
        for version in ("1", "2")
    ]
    for candidate in candidates:
        assert publish_all(tmp_path, [candidate], at_ms=1) == {"xgb": True}
    rollback(tmp_path, "xgb", reason="collapsed", at_ms=2)
    assert publish_all(tmp_path, [candidates[1]], at_ms=3) == {"xgb": False}
    assert current_version(tmp_path, "xgb") == "1"


def test_f31_one_refused_model_leaves_all_old_ones_serving(run: Run, tmp_path: Path) -> None:
    xgb, xgb_bytes = read_artifact(run.request.models_dir, "xgb")
    lgbm, lgbm_bytes = read_artifact(run.request.models_dir, "lgbm")
    for manifest, onnx_bytes in ((xgb, xgb_bytes), (lgbm, lgbm_bytes)):
        publish_all(tmp_path, [Candidate(msgspec.structs.replace(manifest, version="old"), onnx_bytes, 0.0)], at_ms=1)
    good = Candidate(msgspec.structs.replace(xgb, version="new"), xgb_bytes, 0.0)
    swapped = Candidate(msgspec.structs.replace(lgbm, version="new"), xgb_bytes, 0.0)
    with pytest.raises(ModelRefused, match="golden"):
        publish_all(tmp_path, [good, swapped], at_ms=1)
    assert (current_version(tmp_path, "xgb"), current_version(tmp_path, "lgbm")) == ("old", "old")


def test_f08_a_collapsed_or_worthless_model_is_never_called_proven() -> None:
    good = {
        "accuracy": 0.8,
        "accuracy_majority": 0.8,
        "log_loss": 0.5,
        "log_loss_prior": 0.6,
        "log_loss_prior_hindsight": 0.55,
        "p_hold_range": 0.2,
    }
    assert quality(good, kind="row", default_label=True) == "proven"
    for worse in ({"p_hold_range": 0.04}, {"log_loss": 0.56}, {"accuracy": 0.5}, {"log_loss": float("nan")}):
        assert quality({**good, **worse}, kind="row", default_label=True) == "unproven"
    fair = {**good, "accuracy": 0.5, "accuracy_majority": 0.5}
    assert quality(fair, kind="row", default_label=False) == "proven"


FLOORS = {"low": 0.53, "medium": 0.57, "high": 0.52, "trending": 0.55, "ranging": 0.56}


def meta_metrics(**regimes: dict[str, float | None]) -> dict[str, Any]:
    """Exactly good enough, but for `regimes`."""
    even = {name: {"rows": 9.0, "accuracy": floor, "accuracy_majority": 0.5} for name, floor in FLOORS.items()}
    losses = {"log_loss": 0.5, "log_loss_prior": 0.6, "log_loss_prior_hindsight": 0.55}
    overall = {"accuracy": 0.8, "accuracy_majority": 0.8, "p_hold_range": 0.2}
    return {**losses, **overall, "regimes": {**even, **regimes}}


@pytest.mark.parametrize("regime", FLOORS)
@pytest.mark.parametrize("default_label", [True, False])
def test_f08_the_meta_model_is_proven_only_if_it_is_accurate_in_every_regime(regime: str, default_label: bool) -> None:
    def judged(**found: float | None) -> str:
        metrics = meta_metrics(**{regime: {"rows": 9.0, "accuracy_majority": 0.5, **found}})
        return quality(metrics, kind="meta", default_label=default_label)

    floor = FLOORS[regime]
    assert judged(accuracy=floor) == "proven"
    assert judged(accuracy=floor - 0.001) == "unproven"
    assert judged(accuracy=0.891, accuracy_majority=0.9) == "proven"
    assert judged(accuracy=0.889, accuracy_majority=0.9) == "unproven"
    assert judged(rows=0.0, accuracy=None, accuracy_majority=None) == "unproven"


def test_f08_a_meta_model_good_in_every_regime_must_still_beat_the_prior_and_not_collapse() -> None:
    for worse in ({"p_hold_range": 0.04}, {"log_loss": 0.56}, {"log_loss": float("nan")}):
        assert quality({**meta_metrics(), **worse}, kind="meta", default_label=True) == "unproven"


def test_the_meta_manifest_and_report_show_the_regimes_of_the_tested_rows_and_are_gated_on_them(run: Run) -> None:
    manifest = read_manifest(run.request.models_dir, "meta")
    regimes = manifest.metrics["regimes"]
    assert run.report.models["meta"].metrics["regimes"] == regimes
    assert set(regimes) == set(FLOORS)
    for parts in (("low", "medium", "high"), ("trending", "ranging")):
        rows = [regimes[name]["rows"] for name in parts]
        assert sum(rows) == manifest.metrics["rows"]
        assert sum(n * regimes[name]["accuracy"] for n, name in zip(rows, parts, strict=True)) == pytest.approx(
            manifest.metrics["rows"] * manifest.metrics["accuracy"]
        )
    assert manifest.quality == quality(manifest.metrics, kind="meta", default_label=True)


def test_f30_the_scaler_comes_from_the_training_part_only() -> None:
    data = synthetic_dataset(rows_per_symbol=120)
    early, late = data.take(np.arange(120)), data.take(np.arange(150, 240))
    fitted = patchtst_agent.train.TRAINER.fit(early, late, TINY)
    (member,) = fitted.model.members
    assert member.mean.numpy()[1:] == pytest.approx(early.rows("relative").mean(axis=0), abs=1e-4)


def test_a_missing_candle_file_and_a_misregistered_trainer_are_named(run: Run) -> None:
    with pytest.raises(CandleFileError, match="NONEUSDT"):
        run.train(replace(run.request, symbols=("NONEUSDT",)), TREES)
    with pytest.raises(ResearchError, match="registered as xgb"):
        check_trainers({"xgb": TREES["lgbm"]})


def test_agents_without_their_package_or_extra_are_named() -> None:
    def point(agent: str, module: str) -> EntryPoint:
        return EntryPoint(agent, f"{module}:TRAINER", ENTRY_POINT_GROUP)

    with pytest.raises(ResearchError, match="not installed: lgbm, nhits, patchtst"):
        load_trainers([point("xgb", "xgb_agent.train")])
    with pytest.raises(ResearchError, match="extra 'train'"):
        load_trainers([point(agent, "no_such_library") for agent in AGENTS])
    with pytest.raises(ResearchError, match="registered as lgbm"):
        load_trainers([point(agent, "xgb_agent.train") for agent in AGENTS])


def test_f30_the_test_part_is_judged_by_models_that_saw_nothing_of_it(run: Run, tmp_path: Path) -> None:
    test_from_ms = int(synthetic_candles(BARS, 0).ts[-400])
    request = replace(
        run.request,
        models_dir=tmp_path / "models",
        report_dir=tmp_path / "report",
        work_dir=tmp_path / "work",
        test_from_ms=test_from_ms,
    )
    report = run.train(request, TREES)
    assert report.labels_to_ms <= test_from_ms
    assert report.test_rows == 2 * (400 - 50 - 5)
    for agent in AGENTS:
        assert read_manifest(request.models_dir, agent).labels_to_ms <= test_from_ms
        assert report.models[agent].metrics["test"]["rows"] == report.test_rows
    shown = read_report(tmp_path / "report")
    assert shown.test is not None
    assert (shown.test.rows, shown.test.from_ms) == (report.test_rows, test_from_ms)
    assert set(shown.test.models) == {*AGENTS, *METAS, *BASELINES}
    assert shown.meta_walk_forward is not None
    assert set(shown.meta_walk_forward.models) == set(shown.test.models)
    assert set(shown.walk_forward.models) == {*AGENTS, *BASELINES}
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000

    wider = replace(request, models_dir=tmp_path / "wider", report_dir=None, test_from_ms=None)
    assert run.train(wider, TREES).labels_to_ms > test_from_ms
    assert len(list((tmp_path / "work").iterdir())) == 2  # kept fits belong to their own data


def test_a_test_part_without_a_bar_is_named(run: Run) -> None:
    with pytest.raises(TooLittleData, match="test part"):
        run.train(replace(run.request, test_from_ms=run.to_ms + 1), TREES)

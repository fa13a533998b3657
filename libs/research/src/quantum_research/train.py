"""`train`: candles → dataset → fits on folds and on everything → meta models → checked, published artifacts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantum_common.candles import read_candles
from quantum_common.domain import DEFAULT_LABEL_THRESHOLD, timeframe_ms
from quantum_common.features import FEATURE_NAMES, SEQUENCE_BARS, feature_hash
from quantum_research import TooLittleData
from quantum_research.artifacts import Candidate, Origin, publish_all, verified
from quantum_research.dataset import Dataset, build_dataset
from quantum_research.export import parity_rows
from quantum_research.fit_store import Fit, FitStore, key_of
from quantum_research.fitting import Task, Work, fits
from quantum_research.forecaster import (
    Effort,
    TunableTrainer,
    check_trainers,
    installed_trainers,
    model_input,
    with_parameters,
)
from quantum_research.labels import DEFAULT_VOLATILITY_MULTIPLE, LabelScaling
from quantum_research.meta_artifacts import meta_candidate, meta_models
from quantum_research.metrics import evaluate
from quantum_research.splits import split_at
from quantum_research.training_report import Judgement, write_training_report
from quantum_research.votes import out_of_fold_votes
from quantum_research.walk_forward import OutOfFold, folds, joined

QUICK_BARS = 10_000
QUICK = Effort(max_trees=300, patience_trees=20, max_epochs=3, members=1, folds=3)
FULL = Effort()
REPORT_FILE = "train.json"

Progress = Callable[[str, float], None]
"""Called with the stage at hand and the share of the work done before it, 0..1."""


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What to train on, and where the models go. Times are UTC ms of bar opens; `to_ms` is exclusive."""

    data_dir: Path
    venue: str
    symbols: tuple[str, ...]
    timeframe: str
    models_dir: Path
    from_ms: int | None = None
    to_ms: int | None = None
    test_from_ms: int | None = None
    """Nothing is fitted on bars from here on: the finished models are judged on them."""
    quick: bool = False
    """The newest 10,000 bars per symbol, fewer folds, trees, epochs and networks."""
    label_threshold: float | None = None
    """Fraction, or a multiple with `label_scaling` volatility; None is the timeframe's default, or 1."""
    label_scaling: LabelScaling = "fixed"
    horizon_bars: int = 5
    report_dir: Path | None = None
    """Where the evaluation goes; without it models are only trained and checked."""
    work_dir: Path | None = None
    """Finished fits are kept here, so that the same training, killed and started again, goes on."""
    jobs: int = 1
    """Processes that fit at the same time. The models do not depend on it."""
    ray_address: str | None = None
    """Fit on a Ray cluster instead: "host:port", "auto" or "local"."""
    seed: int = 42
    parameters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """agent → hyperparameter → value; what is not named stays at its default."""


@dataclass(frozen=True, slots=True)
class ModelReport:
    version: str
    quality: str
    promoted: bool
    """Whether it is the current model now."""
    parity: float
    """Largest |Δp| between the trained and the exported model."""
    metrics: dict[str, Any]
    """On walk-forward rows that came after everything the fold's model had seen; `test` on the test rows."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    timeframe: str
    horizon_bars: int
    label_threshold: float
    symbols: tuple[str, ...]
    rows: int
    test_rows: int
    data_from_ms: int
    labels_to_ms: int
    class_shares: tuple[float, ...]
    """SELL, HOLD, BUY over all rows trained on."""
    models: dict[str, ModelReport]
    wall_s: float
    stage_s: dict[str, float] = field(default_factory=dict)
    """Stage → wall time until the next was told; fits are told as they end, so beside each other they overlap."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Training:
    """Trained and verified, not published."""

    candidates: Sequence[Candidate]
    test: Dataset | None
    """Rows from `test_from_ms` on, which nothing was fitted on."""
    report: TrainReport
    """Says of every model that it is not promoted."""


class _Stages:
    """Turns stage names into shares of the expected work and keeps their wall times."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._started_s = self._stage_s = time.perf_counter()
        self._stage = ""
        self.wall_s: dict[str, float] = {}

    def __call__(self, stage: str, share: float) -> None:
        self._close()
        self._stage = stage
        if self._progress:
            self._progress(stage, share)

    def finish(self) -> float:
        self._close()
        if self._progress:
            self._progress("done", 1.0)
        return time.perf_counter() - self._started_s

    def _close(self) -> None:
        now_s = time.perf_counter()
        if self._stage:
            self.wall_s[self._stage] = round(now_s - self._stage_s, 2)
        self._stage_s = now_s


def train(
    request: TrainRequest, progress: Progress | None = None, trainers: Mapping[str, TunableTrainer] | None = None
) -> TrainReport:
    """`fit_models`, and publish what came of it. Nothing is published unless every model passed its checks."""
    training = fit_models(request, progress, trainers)
    promoted = publish_all(request.models_dir, list(training.candidates), at_ms=time.time_ns() // 1_000_000)
    models = {name: replace(model, promoted=promoted[name]) for name, model in training.report.models.items()}
    report = replace(training.report, models=models)
    if request.report_dir is not None:
        (request.report_dir / REPORT_FILE).write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return report


def fit_models(
    request: TrainRequest, progress: Progress | None = None, trainers: Mapping[str, TunableTrainer] | None = None
) -> Training:
    """Train and check the four agents, V2, v2p and V1. `trainers` default to the installed agents.

    The same data and request give the same versions. Raises CandleFileError, UnknownTimeframe, TooLittleData,
    ExportRefused, ModelRefused, ResearchError.
    """
    effort = effort_of(request)
    stages = _Stages(progress)
    stages("libraries", 0.0)
    trainers = installed_trainers() if trainers is None else trainers
    check_trainers(trainers)
    trainers = with_parameters(trainers, request.parameters)
    stages("features", 0.01)
    data, test, origin = labelled_rows(request)
    embargo_ms = request.horizon_bars * timeframe_ms(request.timeframe)
    work = Work(trainers, data, test, folds(data, effort, embargo_ms), effort, embargo_ms)
    done = _fit_all(request, work, stages)
    past = _past(work, done)
    stages("meta", 0.9)
    table = out_of_fold_votes(past)
    metas = meta_models(table, embargo_ms=embargo_ms, seed=effort.seed)
    candidates = [_agent_candidate(trainers[agent], work, done, past, origin) for agent in trainers]
    candidates += [meta_candidate(meta, table, origin) for meta in metas]
    if request.report_dir is not None:
        stages("evaluate", 0.93)
        judgement = Judgement(past=past, metas=metas, test=_tested(work, done), candidates=candidates)
        write_training_report(
            request.report_dir, judgement, origin, trainers, effort, request.test_from_ms, stages.wall_s
        )
    wall_s = stages.finish()
    return Training(candidates, test if len(test) else None, _report(work, origin, candidates, wall_s, stages.wall_s))


def effort_of(request: TrainRequest) -> Effort:
    return replace(QUICK if request.quick else FULL, seed=request.seed)


def labelled_rows(request: TrainRequest) -> tuple[Dataset, Dataset, Origin]:
    """Rows to fit on and, from `test_from_ms` on, rows to test on; no label of the first reaches into the second.

    Candles from `to_ms` on are cut off, so no label can see them.
    """
    timeframe_ms(request.timeframe)
    candles = {}
    for symbol in request.symbols:
        known = read_candles(request.data_dir, request.venue, symbol, request.timeframe).between(None, request.to_ms)
        candles[symbol] = known.slice(-QUICK_BARS, None) if request.quick else known
    fixed = request.label_scaling == "fixed"
    default = DEFAULT_LABEL_THRESHOLD[request.timeframe] if fixed else DEFAULT_VOLATILITY_MULTIPLE
    threshold = default if request.label_threshold is None else request.label_threshold
    whole = build_dataset(
        candles,
        request.timeframe,
        horizon_bars=request.horizon_bars,
        threshold=threshold,
        scaling=request.label_scaling,
        from_ms=request.from_ms,
    )
    data, test = _without_test_rows(whole, request.test_from_ms)
    origin = Origin(
        timeframe=request.timeframe,
        horizon_bars=request.horizon_bars,
        label_threshold=threshold,
        label_scaling=request.label_scaling,
        default_label=fixed and threshold == default,
        symbols=tuple(sorted(candles)),
        data_from_ms=int(data.ts_ms.min()),
        labels_to_ms=int(data.label_end_ms.max()),
    )
    return data, test, origin


def _without_test_rows(whole: Dataset, test_from_ms: int | None) -> tuple[Dataset, Dataset]:
    rows = np.arange(len(whole))
    if test_from_ms is None:
        return whole, whole.take(rows[:0])
    try:
        split = split_at(rows, whole.ts_ms, whole.label_end_ms, border_ms=test_from_ms, embargo_ms=0)
    except TooLittleData as error:
        raise TooLittleData("no labelled bar on one side of the test part's begin: choose another one") from error
    return whole.take(split.past), whole.take(split.future)


Done = Mapping[Task, Fit]


def _fit_all(request: TrainRequest, work: Work, stages: _Stages) -> Done:
    tasks = work.tasks()
    total = sum(work.weight(task) for task in tasks)
    store = FitStore(request.work_dir and request.work_dir / _key(work))
    done: dict[Task, Fit] = {}
    stages("fits", 0.02)
    for task, fit in fits(work, store, workers=request.jobs, ray_address=request.ray_address):
        done[task] = fit
        share = sum(work.weight(each) for each in done) / total
        stages(task.name(len(work.splits)), 0.02 + 0.88 * share)
    return done


def _key(work: Work) -> str:
    """Of everything that the fits depend on."""
    facts = {"effort": asdict(work.effort), "trainers": repr(work.trainers), "embargo_ms": work.embargo_ms}
    arrays = (work.data.vectors, work.data.bar, work.data.labels, work.test.bar)
    return key_of(json.dumps(facts, sort_keys=True).encode(), *(each.tobytes() for each in arrays))


def _past(work: Work, done: Done) -> OutOfFold:
    numbers = range(len(work.splits))
    said = {agent: [done[Task(agent, k)].probabilities for k in numbers] for agent in work.trainers}
    first = next(iter(work.trainers))
    return joined(work.data, work.splits, said, [done[Task(first, k)].prior for k in numbers])


def _tested(work: Work, done: Done) -> OutOfFold | None:
    """What the models that are served say of the test rows."""
    if not len(work.test):
        return None
    said = {agent: done[Task(agent, None)].probabilities for agent in work.trainers}
    prior = np.broadcast_to(work.data.class_shares(), (len(work.test), 3))
    return OutOfFold(work.test, said, prior, np.zeros(len(work.test), np.intp))


def _agent_candidate(trainer: TunableTrainer, work: Work, done: Done, past: OutOfFold, origin: Origin) -> Candidate:
    """The model that is served: the pipeline of the folds, on all rows. Its metrics are those of the folds."""
    spec = trainer.model
    fit = done[Task(spec.agent, None)]
    assert fit.served is not None
    metrics = {
        **evaluate(past.probabilities[spec.agent], past.prior, past.data.label),
        **fit.settings,
        "parameters": asdict(trainer.parameters),
    }
    if (tested := _tested(work, done)) is not None:
        metrics["test"] = evaluate(tested.probabilities[spec.agent], tested.prior, tested.data.label)
    return verified(
        fit.served.onnx_bytes,
        model_input(spec, work.data.take(parity_rows(len(work.data)))),
        fit.served.checked,
        origin=origin,
        metrics=metrics,
        libraries=trainer.libraries,
        agent=spec.agent,
        kind=spec.input_kind,
        view=spec.view,
        feature_hash=feature_hash(spec.view),
        feature_names=FEATURE_NAMES,
        window_bars=SEQUENCE_BARS if spec.input_kind == "window" else 1,
        parameters=fit.served.parameters,
    )


def _report(
    work: Work, origin: Origin, candidates: Sequence[Candidate], wall_s: float, stage_s: dict[str, float]
) -> TrainReport:
    return TrainReport(
        timeframe=origin.timeframe,
        horizon_bars=origin.horizon_bars,
        label_threshold=origin.label_threshold,
        symbols=origin.symbols,
        rows=len(work.data),
        test_rows=len(work.test),
        data_from_ms=origin.data_from_ms,
        labels_to_ms=origin.labels_to_ms,
        class_shares=tuple(float(share) for share in work.data.class_shares()),
        models={
            c.manifest.agent: ModelReport(
                version=c.manifest.version,
                quality=c.manifest.quality,
                promoted=False,
                parity=c.parity,
                metrics=c.manifest.metrics,
            )
            for c in candidates
        },
        wall_s=round(wall_s, 1),
        stage_s=stage_s,
    )

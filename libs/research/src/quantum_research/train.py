"""`train`: candles → dataset → out-of-fold predictions → V2 → final models → checked, published artifacts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meta_svc.inputs import FEATURE_NAMES_V2
from quantum_common.candles import read_candles
from quantum_common.domain import DEFAULT_LABEL_THRESHOLD, timeframe_ms
from quantum_common.features import FEATURE_NAMES, SEQUENCE_BARS, feature_hash
from quantum_common.models import LinearModel as LinearForm
from quantum_research.artifacts import Candidate, Origin, meta_hash, publish_all, verified
from quantum_research.calibration import Calibration
from quantum_research.dataset import Dataset, build_dataset
from quantum_research.export import parity_rows
from quantum_research.forecaster import (
    Effort,
    Trainer,
    check_trainers,
    installed_trainers,
    model_input,
    with_parameters,
)
from quantum_research.meta import META, MetaModel, train_meta, vote_inputs
from quantum_research.metrics import accuracy_by_regime, evaluate
from quantum_research.walk_forward import OutOfFold, fit_calibrated, out_of_fold

QUICK_BARS = 10_000
QUICK = Effort(max_trees=300, patience_trees=20, max_epochs=6, patience_epochs=2, folds=3)
FULL = Effort()
REPORT_FILE = "train.json"

Progress = Callable[[str, float], None]
"""Called with the stage that starts and the share of the work done before it, 0..1."""


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
    quick: bool = False
    """The newest 10,000 bars per symbol, fewer folds, trees and epochs."""
    label_threshold: float | None = None
    """Fraction; None is the timeframe's default."""
    horizon_bars: int = 5
    report_dir: Path | None = None
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
    """On walk-forward rows that came after everything the fold's model had seen."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    timeframe: str
    horizon_bars: int
    label_threshold: float
    symbols: tuple[str, ...]
    rows: int
    data_from_ms: int
    labels_to_ms: int
    class_shares: tuple[float, ...]
    """SELL, HOLD, BUY over all rows."""
    models: dict[str, ModelReport]
    wall_s: float
    stage_s: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Stages:
    """Turns stage names into shares of the expected work and keeps their wall times."""

    def __init__(self, progress: Progress | None, expected: int) -> None:
        self._progress, self._expected = progress, expected
        self._started_s = self._stage_s = time.perf_counter()
        self._stage = ""
        self.wall_s: dict[str, float] = {}

    def __call__(self, stage: str) -> None:
        self._close()
        self._stage = stage
        if self._progress:
            self._progress(stage, min(len(self.wall_s) / self._expected, 1.0))

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
    request: TrainRequest, progress: Progress | None = None, trainers: Mapping[str, Trainer] | None = None
) -> TrainReport:
    """Train, check and publish the four agents and V2. `trainers` default to the installed agents.

    Nothing is published unless every model passed. The same data and request give the same versions. Raises
    CandleFileError, UnknownTimeframe, TooLittleData, ExportRefused, ModelRefused.
    """
    effort = effort_of(request)
    stages = _Stages(progress, expected=4 + 4 * (effort.folds + 1))
    stages("libraries")
    trainers = installed_trainers() if trainers is None else trainers
    check_trainers(trainers)
    trainers = with_parameters(trainers, request.parameters)
    stages("features")
    data, origin = labelled_rows(request)
    embargo_ms = request.horizon_bars * timeframe_ms(request.timeframe)
    past = out_of_fold(trainers, data, effort, embargo_ms, stages)
    stages("meta")
    meta = train_meta(past, embargo_ms=embargo_ms, seed=effort.seed)
    candidates = []
    for agent, trainer in trainers.items():
        stages(f"final {agent}")
        candidates.append(_agent_candidate(trainer, data, past, effort, embargo_ms, origin))
    stages("publish")
    candidates.append(_meta_candidate(meta, past, origin))
    promoted = publish_all(request.models_dir, candidates)
    wall_s = stages.finish()
    report = _report(data, origin, candidates, promoted, wall_s, stages.wall_s)
    if request.report_dir is not None:
        request.report_dir.mkdir(parents=True, exist_ok=True)
        (request.report_dir / REPORT_FILE).write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return report


def effort_of(request: TrainRequest) -> Effort:
    base = QUICK if request.quick else FULL
    return Effort(**{**asdict(base), "seed": request.seed})


def labelled_rows(request: TrainRequest) -> tuple[Dataset, Origin]:
    """Labelled rows of all symbols; candles from `to_ms` on are cut off, so no label can see them."""
    timeframe_ms(request.timeframe)
    candles = {}
    for symbol in request.symbols:
        known = read_candles(request.data_dir, request.venue, symbol, request.timeframe).between(None, request.to_ms)
        candles[symbol] = known.slice(-QUICK_BARS, None) if request.quick else known
    default = DEFAULT_LABEL_THRESHOLD[request.timeframe]
    threshold = default if request.label_threshold is None else request.label_threshold
    data = build_dataset(
        candles, request.timeframe, horizon_bars=request.horizon_bars, threshold=threshold, from_ms=request.from_ms
    )
    origin = Origin(
        timeframe=request.timeframe,
        horizon_bars=request.horizon_bars,
        label_threshold=threshold,
        default_label=threshold == default,
        symbols=tuple(sorted(candles)),
        data_from_ms=int(data.ts_ms.min()),
        labels_to_ms=int(data.label_end_ms.max()),
    )
    return data, origin


def _agent_candidate(
    trainer: Trainer, data: Dataset, past: OutOfFold, effort: Effort, embargo_ms: int, origin: Origin
) -> Candidate:
    """The model that is served: the pipeline of the folds, on all rows. Its metrics are those of the folds."""
    spec = trainer.model
    model = fit_calibrated(trainer, data, effort, embargo_ms)
    checked = data.take(parity_rows(len(data)))
    metrics = {
        **evaluate(past.probabilities[spec.agent], past.prior, past.data.label),
        **model.fitted.settings(),
        "parameters": asdict(trainer.parameters),
        **_calibration_numbers(model.calibration),
    }
    return verified(
        model.fitted.export(model.calibration),
        model_input(spec, checked),
        model.probabilities(checked),
        origin=origin,
        metrics=metrics,
        libraries=trainer.libraries,
        agent=spec.agent,
        kind=spec.input_kind,
        view=spec.view,
        feature_hash=feature_hash(spec.view),
        feature_names=FEATURE_NAMES,
        window_bars=SEQUENCE_BARS if spec.input_kind == "window" else 1,
        parameters=model.fitted.parameters(),
    )


def _meta_candidate(meta: MetaModel, past: OutOfFold, origin: Origin) -> Candidate:
    linear, calibration = meta.linear, meta.calibration
    tested = partial(np.take, indices=meta.tested, axis=0)
    data = past.data.take(parity_rows(len(past.data)))
    rows = parity_rows(len(past.data))
    everyone = np.ones((len(rows), len(past.probabilities)), bool)
    votes = {agent: probabilities[rows] for agent, probabilities in past.probabilities.items()}
    inputs = vote_inputs(votes, everyone, data.volatility, data.trend_strength).astype(np.float32)
    return verified(
        linear.export(calibration),
        inputs,
        calibration.probabilities(linear.logits(inputs.astype(np.float64))),
        origin=origin,
        metrics={
            **evaluate(meta.tested_probabilities, tested(past.prior), tested(past.data.label)),
            "regimes": accuracy_by_regime(
                meta.tested_probabilities,
                tested(past.data.label),
                tested(past.data.volatility),
                tested(past.data.trend_strength),
            ),
            **_best_agent(past, meta.tested),
            **_calibration_numbers(calibration),
        },
        libraries=("scikit-learn",),
        agent=META,
        kind="meta",
        view="votes",
        feature_hash=meta_hash(FEATURE_NAMES_V2),
        feature_names=FEATURE_NAMES_V2,
        window_bars=1,
        parameters=linear.coefficients.size + linear.intercept.size,
        linear=LinearForm(
            coefficients=linear.coefficients.tolist(),
            intercept=linear.intercept.tolist(),
            mean=linear.mean.tolist(),
            scale=linear.scale.tolist(),
            temperature=calibration.temperature,
            class_bias=list(calibration.class_bias),
        ),
    )


def _best_agent(past: OutOfFold, tested: NDArray[np.intp]) -> dict[str, float]:
    """The agents' log-loss on the very rows that the meta model is judged on."""
    losses = {
        f"log_loss_{agent}": evaluate(p[tested], past.prior[tested], past.data.label[tested])["log_loss"]
        for agent, p in past.probabilities.items()
    }
    return {**losses, "log_loss_best_agent": min(losses.values())}


def _calibration_numbers(calibration: Calibration) -> dict[str, Any]:
    return {"temperature": calibration.temperature, "class_bias": list(calibration.class_bias)}


def _report(
    data: Dataset,
    origin: Origin,
    candidates: list[Candidate],
    promoted: dict[str, bool],
    wall_s: float,
    stage_s: dict[str, float],
) -> TrainReport:
    return TrainReport(
        timeframe=origin.timeframe,
        horizon_bars=origin.horizon_bars,
        label_threshold=origin.label_threshold,
        symbols=origin.symbols,
        rows=len(data),
        data_from_ms=origin.data_from_ms,
        labels_to_ms=origin.labels_to_ms,
        class_shares=tuple(float(share) for share in data.class_shares()),
        models={
            c.manifest.agent: ModelReport(
                version=c.manifest.version,
                quality=c.manifest.quality,
                promoted=promoted[c.manifest.agent],
                parity=c.parity,
                metrics=c.manifest.metrics,
            )
            for c in candidates
        },
        wall_s=round(wall_s, 1),
        stage_s=stage_s,
    )

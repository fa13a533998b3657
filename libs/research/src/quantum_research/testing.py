"""Builders for tests of training, and the behaviour that every agent's trainer must show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from meta_svc.inputs import FEATURE_NAMES_V2
from quantum_common.candles import Candles
from quantum_common.domain.signal import CLASS_ORDER
from quantum_common.features import FEATURE_NAMES, WARMUP_BARS, feature_hash
from quantum_common.models import Golden, Manifest
from quantum_common.models.serving import Graph
from quantum_research.artifacts import Candidate
from quantum_research.calibration import Calibration, fit_calibration
from quantum_research.dataset import Dataset, build_dataset
from quantum_research.export import PARITY_TOLERANCE, linear_graph, verify_export
from quantum_research.forecaster import Effort, TunableTrainer, model_input, with_parameters
from quantum_research.splits import split_at
from quantum_research.walk_forward import OutOfFold

START_MS = 1_600_000_000_000 - 1_600_000_000_000 % 3_600_000
HOUR_MS = 3_600_000
TINY = Effort(max_trees=12, patience_trees=4, max_epochs=1, patience_epochs=1, members=1, folds=2)


def synthetic_candles(bars: int, seed: int, *, bar_ms: int = HOUR_MS) -> Candles:
    """A random walk whose volatility comes in waves, so that labels can be learned a little."""
    generator = np.random.default_rng(seed)
    wave = 0.006 * (1.4 + np.sin(np.arange(bars) / 60.0 + seed))
    close = 100.0 * np.exp(np.cumsum(generator.normal(size=bars) * wave))
    open_ = np.concatenate(([close[0]], close[:-1]))
    reach = np.abs(generator.normal(size=bars)) * wave * close
    return Candles(
        ts=START_MS + bar_ms * np.arange(bars, dtype=np.int64),
        open=open_,
        high=np.maximum(open_, close) + reach,
        low=np.minimum(open_, close) - reach * 0.5,
        close=close,
        volume=np.exp(generator.normal(size=bars)),
    )


def synthetic_dataset(rows_per_symbol: int = 400, symbols: int = 2) -> Dataset:
    bars = WARMUP_BARS + 63 + rows_per_symbol + 5
    candles = {f"S{seed}USDT": synthetic_candles(bars, seed) for seed in range(symbols)}
    return build_dataset(candles, "1h", horizon_bars=5, threshold=0.015)


def synthetic_votes(data: Dataset, knowledge: Mapping[str, float], *, folds: int = 3) -> OutOfFold:
    """Models that know the labels as much as they are told to: 0 is nothing, 1 a good deal; all but calibrated."""
    shares = data.class_shares()
    votes = {}
    for seed, (name, strength) in enumerate(knowledge.items()):
        noise = np.random.default_rng(seed).normal(size=(len(data), 3))
        hint = 2.0 * strength * np.eye(3)[data.label] + noise
        votes[name] = fit_calibration(hint, data.label).probabilities(hint)
    fold = np.arange(len(data)) * folds // len(data)
    return OutOfFold(data, votes, np.broadcast_to(shares, (len(data), 3)), fold)


def check_trainer(trainer: TunableTrainer) -> None:
    """Fit, export and serve a tiny model: same probabilities at every batch size, same model when repeated."""
    data = synthetic_dataset()
    border_ms = int(np.quantile(data.ts_ms, 0.75))
    split = split_at(np.arange(len(data)), data.ts_ms, data.label_end_ms, border_ms=border_ms, embargo_ms=0)
    fitted = trainer.fit(data.take(split.past), data.take(split.future), TINY)
    logits = fitted.logits(data)
    assert logits.shape == (len(data), 3)
    assert np.isfinite(logits).all()
    assert fitted.parameters() > 0

    calibration = Calibration(1.3, (-0.2, 0.3, -0.1))
    onnx_bytes = fitted.export(calibration)
    inputs = model_input(trainer.model, data)
    difference, served = verify_export(onnx_bytes, inputs, calibration.probabilities(logits), trainer.model.agent)
    assert difference <= PARITY_TOLERANCE
    graph = Graph(onnx_bytes)
    for rows in (1, 7, 64):
        assert np.abs(graph.run(inputs[:rows]) - served[:rows]).max() <= PARITY_TOLERANCE
    assert b"/site-packages/" not in onnx_bytes
    assert b".py" not in onnx_bytes

    check_search_space(trainer)

    again = trainer.fit(data.take(split.past), data.take(split.future), TINY)
    assert again.export(calibration) == onnx_bytes


@dataclass(frozen=True, slots=True)
class GivenSuggestions:
    """A trial that answers with given values and insists that the space holds them."""

    values: Mapping[str, float]
    asked: list[str] = field(default_factory=list)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._given(name, low, high)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._given(name, low, high))

    def _given(self, name: str, low: float, high: float) -> float:
        assert low <= self.values[name] <= high, name
        self.asked.append(name)
        return self.values[name]


def check_search_space(trainer: TunableTrainer) -> None:
    """The space names every hyperparameter once, holds the defaults, and leaves the rest of the trainer as it was."""
    defaults = asdict(trainer.parameters)
    trial = GivenSuggestions(defaults)
    assert trainer.suggested(trial) == trainer
    assert sorted(trial.asked) == sorted(defaults)
    changed = {"learning_rate": defaults["learning_rate"] * 1.5}
    other = trainer.suggested(GivenSuggestions({**defaults, **changed}))
    assert other == with_parameters({trainer.model.agent: trainer}, {trainer.model.agent: changed})[trainer.model.agent]
    assert other != trainer


def linear_candidate(agent: str, says: tuple[float, float, float], *, known_to_ms: int, name: str) -> Candidate:
    """A model that says nearly the same of everything, a little more HOLD where RSI (meta: the volatility) is high."""
    names = FEATURE_NAMES_V2 if agent == "meta" else FEATURE_NAMES
    place, middle, width = (names.index("volatility"), 0.5, 0.3) if agent == "meta" else (0, 50.0, 10.0)
    coefficients, mean, scale = np.zeros((3, len(names))), np.zeros(len(names)), np.ones(len(names))
    coefficients[1, place], mean[place], scale[place] = 0.2, middle, width
    onnx_bytes = linear_graph(coefficients, np.log(says), mean, scale, Calibration(1.0, (0.0, 0.0, 0.0)))
    inputs = np.random.default_rng(1).normal(size=(8, len(names))).astype(np.float32)
    inputs[:, place] = np.linspace(0.0, 2 * middle, 8)
    meta = agent == "meta"
    manifest = Manifest(
        agent=agent, version=name, kind="meta" if meta else "row", view="votes" if meta else "relative",
        feature_hash="votes" if meta else feature_hash("relative"), feature_names=tuple(names),
        class_order=tuple(CLASS_ORDER), timeframe="1h", horizon_bars=5, label_threshold=0.015, window_bars=1,
        symbols=(), library_versions={}, data_from_ms=0, labels_to_ms=known_to_ms, metrics={}, quality="unproven",
        parameters=1, golden=Golden(inputs.tolist(), Graph(onnx_bytes).run(inputs).tolist()),
    )  # fmt: skip
    return Candidate(manifest, onnx_bytes, 0.0)

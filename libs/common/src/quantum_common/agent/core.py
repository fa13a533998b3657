"""From feature events to votes and abstentions. Pure: the model and the windows come in as arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantum_common.agent.spec import ModelSpec
from quantum_common.contracts import Envelope, FeaturesComputed, PredictionAbstained, PredictionMade
from quantum_common.contracts.predictions import AbstainReason
from quantum_common.domain.signal import CLASS_ORDER
from quantum_common.features import SEQUENCE_BARS, feature_hash, unpack_vectors
from quantum_common.features.views import rows, sequence

FeatureEvent = Envelope[FeaturesComputed]
Prediction = PredictionMade | PredictionAbstained
Role = Literal["champion", "shadow"]

RAW_HASH = feature_hash("raw")


def window_of(packed: Sequence[bytes], bar_ts_ms: int) -> NDArray[np.float64] | None:
    """The 64 vectors that end at exactly this bar, (64, 20) oldest first; None when they are not all there."""
    times, vectors = unpack_vectors(packed)
    return vectors if len(times) == SEQUENCE_BARS and times[-1] == bar_ts_ms else None


def abstain(spec: ModelSpec, reason: AbstainReason, detail: str, version: str | None = None) -> PredictionAbstained:
    """`version` is given when the served model is the reason."""
    return PredictionAbstained(spec.agent, reason, detail, version)


def unusable(spec: ModelSpec, event: FeatureEvent, window: NDArray[np.float64] | None) -> PredictionAbstained | None:
    """Why this event cannot be predicted on, or None (F07, F09)."""
    if event.payload.feature_hash != RAW_HASH:
        return abstain(spec, "feature_mismatch", f"event {event.payload.feature_hash}, served {RAW_HASH}")
    if spec.input_kind == "window" and window is None:
        return abstain(spec, "not_enough_history", f"the {SEQUENCE_BARS} bars up to this one are not all there")
    return None


def inputs_of(
    spec: ModelSpec, events: Sequence[FeatureEvent], windows: Sequence[NDArray[np.float64] | None]
) -> NDArray[np.float32]:
    """The model's input batch in its view, one row per event."""
    if spec.input_kind == "row":
        values = np.array([event.payload.values for event in events], dtype=np.float64)
        close = np.array([event.payload.candle.close for event in events], dtype=np.float64)
        return rows(values, close, spec.view)
    return sequence(np.stack([window for window in windows if window is not None]), spec.view)


def vote(
    spec: ModelSpec, probabilities: NDArray[np.float64], version: str, inference_ms: float, role: Role = "champion"
) -> Prediction:
    """The vote of one row of probabilities, shape (3,). An invalid row abstains: it is never masked as HOLD (F09)."""
    valid = (
        bool(np.isfinite(probabilities).all() and (probabilities >= 0).all()) and abs(probabilities.sum() - 1) < 1e-3
    )
    if not valid:
        return abstain(spec, "invalid_output", f"probabilities {probabilities.tolist()}", version)
    best = int(np.argmax(probabilities))
    sell, hold, buy = (float(value) for value in probabilities)
    return PredictionMade(
        agent=spec.agent,
        action=CLASS_ORDER[best],
        confidence=float(probabilities[best]),
        probabilities=(sell, hold, buy),
        model_version=version,
        role=role,
        inference_ms=inference_ms,
    )

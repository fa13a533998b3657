"""From a trained and calibrated model to a published artifact: parity, golden rows, manifest, version, gate."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_common.domain.signal import CLASS_ORDER
from quantum_common.models import (
    Golden,
    Manifest,
    ModelRefused,
    current_version,
    promote,
    publish,
    read_manifest,
    versions,
    withdrawn,
)
from quantum_common.models.manifest import GOLDEN_ROWS, Kind
from quantum_common.models.serving import verify
from quantum_research.export import verify_export
from quantum_research.labels import HOLD, LabelScaling

MIN_ACCURACY = 0.55
"""Of the walk-forward folds, for the timeframe's default label."""
META_MIN_ACCURACY = {"low": 0.53, "medium": 0.57, "high": 0.52, "trending": 0.55, "ranging": 0.56}
"""Of the meta model, per regime of the tested rows, for every label."""
_ACCURACY_SLACK = 0.01
_SMALLEST_P_HOLD_RANGE = 0.05
_COMMON_LIBRARIES = ("numpy", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Origin:
    """What all models of one training run share."""

    timeframe: str
    horizon_bars: int
    label_threshold: float
    label_scaling: LabelScaling
    default_label: bool
    symbols: tuple[str, ...]
    data_from_ms: int
    labels_to_ms: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A verified model that is not published yet."""

    manifest: Manifest
    onnx_bytes: bytes
    parity: float
    """Largest |Δp| between the trained and the exported model."""


def verified(
    onnx_bytes: bytes,
    inputs: NDArray[np.float32],
    trained: NDArray[np.float64],
    *,
    origin: Origin,
    metrics: dict[str, Any],
    libraries: tuple[str, ...],
    **fields: Any,
) -> Candidate:
    """Check the export against the trained model on `inputs` and write its manifest (`fields` are the model's own).

    Raises ExportRefused and ModelRefused.
    """
    difference, served = verify_export(onnx_bytes, inputs, trained, fields["agent"])
    manifest = Manifest(
        version="",
        class_order=tuple(CLASS_ORDER),
        timeframe=origin.timeframe,
        horizon_bars=origin.horizon_bars,
        label_threshold=origin.label_threshold,
        label_scaling=origin.label_scaling,
        symbols=origin.symbols,
        library_versions={name: library_version(name) for name in sorted((*_COMMON_LIBRARIES, *libraries))},
        data_from_ms=origin.data_from_ms,
        labels_to_ms=origin.labels_to_ms,
        metrics=metrics,
        quality=quality(metrics, kind=fields["kind"], default_label=origin.default_label),
        golden=_golden_rows(inputs, served),
        **fields,
    )
    named = msgspec.structs.replace(manifest, version=_content_version(manifest, onnx_bytes))
    return Candidate(named, onnx_bytes, difference)


def quality(metrics: dict[str, Any], *, kind: Kind, default_label: bool) -> Literal["proven", "unproven"]:
    """Proven: on walk-forward folds better than the class prior, accurate enough, and not collapsed."""
    accurate = _accurate_in_every_regime(metrics) if kind == "meta" else _accurate(metrics, default_label)
    better = metrics["log_loss"] < min(metrics["log_loss_prior"], metrics["log_loss_prior_hindsight"])
    return "proven" if accurate and better and metrics["p_hold_range"] >= _SMALLEST_P_HOLD_RANGE else "unproven"


def _accurate(metrics: dict[str, Any], default_label: bool) -> bool:
    required = MIN_ACCURACY if default_label else metrics["accuracy_majority"] - _ACCURACY_SLACK
    return bool(metrics["accuracy"] >= required)


def _accurate_in_every_regime(metrics: dict[str, Any]) -> bool:
    """A regime without a tested row is unknown, so it is not good enough."""
    return all(
        found["rows"] > 0 and found["accuracy"] >= max(floor, found["accuracy_majority"] - _ACCURACY_SLACK)
        for floor, found in ((floor, metrics["regimes"][regime]) for regime, floor in META_MIN_ACCURACY.items())
    )


def meta_hash(names: tuple[str, ...]) -> str:
    """The meta model sees votes, not features: its hash is over the names of its inputs."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]


def _golden_rows(inputs: NDArray[np.float32], served: NDArray[np.float64]) -> Golden:
    """Rows from the lowest to the highest P(HOLD), so that they differ as much as the model can."""
    order = np.argsort(served[:, HOLD], kind="stable")
    rows = order[np.linspace(0, len(order) - 1, GOLDEN_ROWS).astype(int)]
    return Golden(inputs[rows].tolist(), served[rows].tolist())


def _content_version(manifest: Manifest, onnx_bytes: bytes) -> str:
    """End of the data and a hash of all content: the same training gives the same version, at any time of day."""
    end = datetime.fromtimestamp(manifest.labels_to_ms / 1000, UTC)
    digest = hashlib.sha256(onnx_bytes + msgspec.json.encode(manifest, order="deterministic")).hexdigest()
    return f"{end:%Y%m%d}-{digest[:10]}"


def publish_all(models_dir: Path, candidates: list[Candidate], *, at_ms: int) -> dict[str, bool]:
    """Publish every candidate, load each as a service would, then point to them; agent → whether it is current now.

    Until the last one has loaded, the old models stay. An unproven model does not replace a proven one of the same
    label, and a withdrawn one replaces none. Raises ModelRefused.
    """
    for candidate in candidates:
        manifest = candidate.manifest
        if manifest.version not in versions(models_dir, manifest.agent):
            publish(models_dir, manifest, candidate.onnx_bytes)
        verify(models_dir, manifest.agent, manifest.version)
    promoted = {}
    for manifest in (candidate.manifest for candidate in candidates):
        promoted[manifest.agent] = _may_replace(models_dir, manifest)
        if promoted[manifest.agent]:
            promote(models_dir, manifest.agent, manifest.version, reason="trained", at_ms=at_ms)
    return promoted


def _may_replace(models_dir: Path, new: Manifest) -> bool:
    if new.version in withdrawn(models_dir, new.agent):
        return False
    if new.quality == "proven" or current_version(models_dir, new.agent) is None:
        return True
    try:
        old = read_manifest(models_dir, new.agent)
    except ModelRefused:
        return True
    return old.quality != "proven" or old.label != new.label

"""The model that serves: loaded when the `current` pointer moves, kept when the new one is refused."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meta_svc import metrics
from meta_svc.core import Policy
from meta_svc.decide import Probabilities, Rows
from meta_svc.lines import loaded_line, refused_line
from meta_svc.versions import V2, MetaVersion
from quantum_common.models import LinearModel, ModelRefused
from quantum_common.models.serving import LoadedModel, load
from quantum_common.models.slot import ModelSlot

log = logging.getLogger(__name__)

LINEAR_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A verified artifact; a linear one carries the form that gives the probabilities of its graph."""

    loaded: LoadedModel
    linear: LinearModel | None

    @property
    def version(self) -> str:
        return self.loaded.manifest.version

    @property
    def quality(self) -> str:
        return self.loaded.manifest.quality

    @property
    def width(self) -> int:
        return len(self.loaded.manifest.feature_names)

    def predict(self, rows: Rows) -> Probabilities:
        return self.loaded.predict(rows)


def load_meta(
    model_dir: Path, meta: MetaVersion = V2, timeframe: str | None = None, version: str | None = None
) -> ServedModel:
    """A version (default: the current one) of a learner's model folder. Raises ModelRefused."""
    loaded = load(
        model_dir.parent,
        model_dir.name,
        expected_feature_hash=None,
        expected_names=meta.feature_names,
        expected_kind="meta",
        expected_timeframe=timeframe,
        version=version,
    )
    if not meta.linear:
        return ServedModel(loaded, None)
    linear = loaded.manifest.linear
    if linear is None:
        raise ModelRefused("linear_missing", "the manifest has no linear form, so no decision could be explained")
    _check_linear(loaded, linear)
    return ServedModel(loaded, linear)


def _check_linear(loaded: LoadedModel, linear: LinearModel) -> None:
    """An explanation that does not add up to what the graph says would be worse than none."""
    rows = np.array(loaded.manifest.golden.inputs, dtype=np.float32)
    try:
        with np.errstate(all="ignore"):  # a scale or temperature of 0 ends in NaN, and NaN is refused below
            standardised = (rows - np.array(linear.mean)) / np.array(linear.scale)
            raw = standardised @ np.array(linear.coefficients).T + np.array(linear.intercept)
            logits = raw / np.float64(linear.temperature) + np.array(linear.class_bias)
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            difference = float(np.abs(odds / odds.sum(axis=1, keepdims=True) - loaded.predict(rows)).max())
    except ValueError as error:
        raise ModelRefused("linear_invalid", str(error)) from error
    if not difference <= LINEAR_TOLERANCE:
        raise ModelRefused("linear_mismatch", f"the linear form is off by up to {difference:.1e} on the golden rows")


class MetaSlot(ModelSlot[ServedModel]):
    """`model_dir` holds the `current` pointer and the versions; None = no model at all. `timeframe` None = any."""

    def __init__(self, model_dir: Path | None, policy: Policy, timeframe: str | None = None) -> None:
        super().__init__(model_dir and model_dir.parent, model_dir.name if model_dir else "")
        self._policy, self._timeframe = policy, timeframe

    def load(self, version: str) -> ServedModel:
        assert self._models_dir is not None
        return load_meta(self._models_dir / self._agent, self._policy.version, self._timeframe, version)

    def served(self, model: ServedModel) -> None:
        log.info(loaded_line(self._policy.override_threshold, self._policy.version))
        metrics.MODEL_READY.set(1)
        metrics.MODEL_INFO.clear()
        metrics.MODEL_INFO.labels(model.version, model.quality).set(1)

    def refused(self, error: ModelRefused) -> None:
        log.error(refused_line(f"{error.detail} [{error.reason}]", self._policy.version))
        metrics.MODELS_REFUSED.labels(error.reason).inc()

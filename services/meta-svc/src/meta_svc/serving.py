"""The model that serves: loaded when the `current` pointer moves, kept when the new one is refused."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meta_svc import metrics
from meta_svc.decide import Probabilities, Rows
from meta_svc.inputs import FEATURE_NAMES_V2
from meta_svc.lines import loaded_line, refused_line
from quantum_common.models import LinearModel, ModelRefused, current_version
from quantum_common.models.serving import LoadedModel, load

log = logging.getLogger(__name__)

VERSION = "v2"
LINEAR_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A verified V2 artifact whose linear form gives the probabilities of its graph."""

    loaded: LoadedModel
    linear: LinearModel

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


def load_v2(model_dir: Path, timeframe: str | None = None) -> ServedModel:
    """The current model of a folder. Raises ModelRefused."""
    loaded = load(
        model_dir.parent,
        model_dir.name,
        expected_feature_hash=None,
        expected_names=FEATURE_NAMES_V2,
        expected_kind="meta",
        expected_timeframe=timeframe,
    )
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


class ModelSlot:
    """Holds the model that serves. `look` may run in threads: the swap is one assignment.

    `model_dir` holds the `current` pointer and the versions; None = no model at all. `timeframe` None = any.
    """

    def __init__(self, model_dir: Path | None, meta_threshold: float, timeframe: str | None = None) -> None:
        self._model_dir, self._meta_threshold, self._timeframe = model_dir, meta_threshold, timeframe
        self.model: ServedModel | None = None
        self.problem: str | None = "no model folder is set" if model_dir is None else "not looked for yet"
        """Why there is no model, or why the newest was refused; None when the current one serves."""
        self._seen: str | None = None
        self._lock = threading.Lock()

    def look(self, *, again: bool = False) -> None:
        """Load the model that the pointer names unless that was tried before; `again` tries a refused one once more."""
        with self._lock:
            if self._model_dir is not None:
                self._look(self._model_dir, again)

    def _look(self, model_dir: Path, again: bool) -> None:
        try:
            version = current_version(model_dir.parent, model_dir.name)
            serving = self.model.version if self.model else None
            if version is None or version == serving:
                self._unchanged(version)
            elif version != self._seen or again:
                self._seen = version
                self._serve(load_v2(model_dir, self._timeframe))
        except ModelRefused as error:
            self._refuse(error.reason, error.detail)
        except OSError as error:
            self._refuse("unreadable", str(error))

    def _unchanged(self, version: str | None) -> None:
        if version is None and self.model is None:
            self.problem = f"{self._model_dir} has no current version"
        elif version is not None:
            self.problem, self._seen = None, version

    def _serve(self, model: ServedModel) -> None:
        self.model, self.problem = model, None
        log.info(loaded_line(self._meta_threshold, VERSION))
        metrics.MODEL_READY.set(1)
        metrics.MODEL_INFO.clear()
        metrics.MODEL_INFO.labels(model.version, model.quality).set(1)

    def _refuse(self, reason: str, detail: str) -> None:
        problem = f"{detail} [{reason}]"
        if problem != self.problem:
            log.error(refused_line(problem))
            metrics.MODELS_REFUSED.labels(reason).inc()
        self.problem = problem

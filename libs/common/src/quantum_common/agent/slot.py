"""The model slots of a base agent: the champion's, and the shadow's beside it."""

from __future__ import annotations

import logging
from pathlib import Path

from quantum_common.agent import metrics
from quantum_common.agent.spec import ModelSpec
from quantum_common.models import ModelRefused, shadow_version
from quantum_common.models.serving import LoadedModel, load
from quantum_common.models.slot import ModelSlot
from quantum_common.service import FleetSettings

log = logging.getLogger(__name__)


class AgentSlot(ModelSlot[LoadedModel]):
    """Loads what the agent's `ModelSpec` and the fleet's timeframe ask for."""

    def __init__(self, settings: FleetSettings, spec: ModelSpec) -> None:
        super().__init__(settings.models_dir, spec.agent)
        self._settings, self._spec = settings, spec

    def load(self, version: str) -> LoadedModel:
        return load(
            self._settings.models_dir,
            self._spec.agent,
            expected_kind=self._spec.input_kind,
            expected_view=self._spec.view,
            expected_timeframe=self._settings.timeframe,
            version=version,
        )

    def served(self, model: LoadedModel) -> None:
        manifest = model.manifest
        log.info("%s: serving model %s (%s)", self._spec.agent, manifest.version, manifest.quality)
        metrics.MODEL_INFO.clear()
        metrics.MODEL_INFO.labels(self._spec.agent, manifest.version, manifest.quality).set(1)

    def refused(self, error: ModelRefused) -> None:
        log.error("%s: model refused: %s", self._spec.agent, error)


class ShadowSlot(AgentSlot):
    """Follows the `shadow` pointer; unlike the champion's it lets go of a model that is pointed to no longer."""

    def pointed(self, models_dir: Path) -> str | None:
        return shadow_version(models_dir, self._spec.agent)

    def look(self, *, again: bool = False) -> None:
        try:
            super().look(again=again)
        except Exception:  # a challenger may be wrong in any way, and the champion votes on
            log.exception("%s: looking for a shadow failed", self._spec.agent)
            metrics.SHADOW_FAILURES.labels(self._spec.agent, "unreadable").inc()

    def _look(self, models_dir: Path, again: bool) -> None:
        if self._serving is not None and self.pointed(models_dir) != self._serving:
            self._drop()
            metrics.SHADOW_INFO.clear()
        super()._look(models_dir, again)

    def served(self, model: LoadedModel) -> None:
        manifest = model.manifest
        log.info("%s: shadow model %s (%s) predicts without a vote", manifest.agent, manifest.version, manifest.quality)
        metrics.SHADOW_INFO.labels(manifest.agent, manifest.version, manifest.quality).set(1)

    def refused(self, error: ModelRefused) -> None:
        log.error("%s: shadow refused: %s", self._spec.agent, error)
        metrics.SHADOW_FAILURES.labels(self._spec.agent, error.reason).inc()

"""The model slot of a base agent."""

from __future__ import annotations

import logging

from quantum_common.agent import metrics
from quantum_common.agent.spec import ModelSpec
from quantum_common.models import ModelRefused
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

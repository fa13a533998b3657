"""The model a process serves: follows the `current` pointer; a refused version leaves the running one in place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from quantum_common.models.manifest import ModelRefused
from quantum_common.models.serving import LoadedModel
from quantum_common.models.store import current_version

log = logging.getLogger(__name__)


class ModelSlot:
    """`load(version)` verifies a version and returns it, or raises ModelRefused. Shared by agents and meta."""

    def __init__(self, models_dir: Path, agent: str, load: Callable[[str], LoadedModel]) -> None:
        self._models_dir, self._agent, self._load = models_dir, agent, load
        self._tried: str | None = None
        self.model: LoadedModel | None = None
        self.problem = "not looked for yet"
        """Why the newest version is not served; empty when it is."""

    def refresh(self) -> bool:
        """Load the current version if the pointer moved; True when the served model changed. Blocks: file and CPU."""
        version = current_version(self._models_dir, self._agent)
        if version is None:
            self.problem = f"no current version under {self._models_dir / self._agent}"
            return False
        if version == self._tried:
            return False
        self._tried = version
        try:
            self.model = self._load(version)
        except ModelRefused as error:
            self.problem = f"{version} refused: {error}"
            log.error("%s: model %s", self._agent, self.problem)
            return False
        self.problem = ""
        log.info("%s: serving model %s (%s)", self._agent, version, self.model.manifest.quality)
        return True

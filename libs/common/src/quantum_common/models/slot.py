"""The model a process serves: follows the `current` pointer; a refused version leaves the running one in place."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

from quantum_common.models.manifest import ModelRefused
from quantum_common.models.store import current_version

M = TypeVar("M")


class ModelSlot(ABC, Generic[M]):
    """Shared by agents and meta, which say how a version is loaded and what to log. `models_dir` None = no model.

    `look` may run in threads: the swap is one assignment.
    """

    def __init__(self, models_dir: Path | None, agent: str) -> None:
        self._models_dir, self._agent = models_dir, agent
        self.model: M | None = None
        self.problem: str | None = "no model folder is set" if models_dir is None else "not looked for yet"
        """Why there is no model, or why the newest was refused; None when the current one serves."""
        self._serving: str | None = None
        self._tried: str | None = None
        self._lock = threading.Lock()

    def pointed(self, models_dir: Path) -> str | None:
        """The version that shall serve."""
        return current_version(models_dir, self._agent)

    @abstractmethod
    def load(self, version: str) -> M:
        """Verify a version and return it. Raises ModelRefused."""

    @abstractmethod
    def served(self, model: M) -> None:
        """Called when a model has taken over."""

    @abstractmethod
    def refused(self, error: ModelRefused) -> None:
        """Called once per refusal."""

    def look(self, *, again: bool = False) -> None:
        """Load the version that the pointer names unless that was tried before; `again` tries a refused one again.

        Blocks: files and CPU.
        """
        with self._lock:
            if self._models_dir is not None:
                try:
                    self._look(self._models_dir, again)
                except ModelRefused as error:
                    self._refuse(error)
                except OSError as error:  # may pass: the same version is tried again at the next look
                    self._tried = None
                    self._refuse(ModelRefused("unreadable", str(error)))

    def _look(self, models_dir: Path, again: bool) -> None:
        version = self.pointed(models_dir)
        if version is None:
            if self.model is None:
                self.problem = f"{models_dir / self._agent} has no current version"
        elif version == self._serving:
            self._tried, self.problem = version, None
        elif version != self._tried or again:
            self._tried = version
            model = self.load(version)
            self.model, self._serving, self.problem = model, version, None
            self.served(model)

    def _drop(self) -> None:
        self.model = self._serving = self._tried = None

    def _refuse(self, error: ModelRefused) -> None:
        problem = f"{error.detail} [{error.reason}]"
        if problem != self.problem:
            self.refused(error)
        self.problem = problem

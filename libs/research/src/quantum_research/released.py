"""Moving models through the registry: stored, pointed to, loaded as a service would, and the way back."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from quantum_common.models import (
    clear_shadow,
    current_version,
    promote,
    publish,
    rollback,
    set_shadow,
    versions,
)
from quantum_common.models.serving import verify
from quantum_research import ResearchError
from quantum_research.artifacts import Candidate
from quantum_research.gate import Decision, Judged
from quantum_research.shadow import write_shadow_period


def store(models_dir: Path, candidates: Sequence[Candidate]) -> None:
    """Publish versions that nothing points to yet, and load each. Raises ModelRefused."""
    for candidate in candidates:
        manifest = candidate.manifest
        if manifest.version not in versions(models_dir, manifest.agent):
            publish(models_dir, manifest, candidate.onnx_bytes)
        verify(models_dir, manifest.agent, manifest.version)


def move(models_dir: Path, moved: Sequence[Judged], *, shadow_bars: int, at_ms: int) -> None:
    """Point to what was decided on. A wish to end waits for the last pointer; what a kill left out, a restart does."""
    with _undisturbed():
        for row in moved:
            if row.decision is Decision.SHADOW:
                write_shadow_period(models_dir, row.agent, row.version, shadow_bars)
                set_shadow(models_dir, row.agent, row.version)
            else:
                promote(models_dir, row.agent, row.version, reason=f"deployed: {row.reason}", at_ms=at_ms)


@contextmanager
def _undisturbed() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def validate(models_dir: Path, moved: Sequence[Judged]) -> None:
    for row in moved:
        verify(models_dir, row.agent, row.version)
        if row.decision is Decision.RELEASE and current_version(models_dir, row.agent) != row.version:
            raise ResearchError(f"{row.agent}: {row.version} was released, and another version serves")


def undo(models_dir: Path, moved: Sequence[Judged], *, champions: Mapping[str, str], at_ms: int) -> None:
    """Back to what served before; a model that had no predecessor stays: nothing else could serve."""
    for row in moved:
        if row.decision is Decision.SHADOW:
            clear_shadow(models_dir, row.agent)
        elif row.agent in champions and current_version(models_dir, row.agent) == row.version:
            rollback(models_dir, row.agent, reason="deployment did not validate", at_ms=at_ms)

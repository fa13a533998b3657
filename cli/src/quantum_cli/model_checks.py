"""Whether an operator may release a version."""

from __future__ import annotations

from pathlib import Path

from quantum_cli.errors import RunFailed
from quantum_cli.model_registry import check_version
from quantum_common.models import ModelRefused, read_manifest, withdrawn
from quantum_common.models.serving import verify


def check_promotable(models_dir: Path, agent: str, version: str, *, force: bool) -> None:
    """Load the version as its service will.

    Raises ModelRefused for one that must never serve, RunFailed for one that needs `force`: unproven, withdrawn, or
    trained for another label than the one that serves.
    """
    manifest = verify(models_dir, agent, check_version(models_dir, agent, version)).manifest
    if force:
        return
    doubts = []
    if version in withdrawn(models_dir, agent):
        doubts.append("was withdrawn by a rollback")
    if manifest.quality != "proven":
        doubts.append("is unproven: not better than the class prior on its walk-forward folds")
    if _label_served(models_dir, agent) not in (None, manifest.label):
        doubts.append("was trained for another label than the current one")
    if doubts:
        raise RunFailed(f"{agent} {version} {'; it '.join(doubts)}. Say --force to release it all the same")


def _label_served(models_dir: Path, agent: str) -> tuple[str, int, float, str] | None:
    try:
        return read_manifest(models_dir, agent).label
    except ModelRefused:  # nothing serves, or nothing that could be compared with
        return None

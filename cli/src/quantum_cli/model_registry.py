"""What stands in a folder of models, version by version, and which of them an operator may release."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from meta_svc.versions import VERSIONS
from quantum_cli.errors import UsageError
from quantum_common.domain import AGENTS
from quantum_common.models import (
    ModelRefused,
    age_s,
    current_version,
    previous_version,
    read_manifest,
    shadow_version,
    versions,
    withdrawn,
)

MODEL_FOLDERS = (*AGENTS, *(version.folder for version in VERSIONS.values()))
"""What may stand in a models folder."""

Role = Literal["current", "shadow", "previous", "withdrawn", "waiting"]


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version as listed. What a manifest does not say, or a broken one cannot, is None."""

    agent: str
    version: str
    role: Role
    quality: str | None = None
    age_s: float | None = None
    """Since the last label it was trained on."""
    timeframe: str | None = None
    label_threshold: float | None = None
    horizon_bars: int | None = None
    log_loss: float | None = None
    log_loss_prior: float | None = None
    problem: str | None = None
    """Why its manifest cannot be read."""

    @property
    def label(self) -> str:
        """For people, such as `1h ±1.5 % 5 bars`."""
        if self.label_threshold is None:
            return "-"
        return f"{self.timeframe} ±{self.label_threshold * 100:g} % {self.horizon_bars} bars"


def check_agent(agent: str) -> str:
    if agent not in MODEL_FOLDERS:
        raise UsageError(f"no agent {agent!r}: use one of {', '.join(MODEL_FOLDERS)}")
    return agent


def check_version(models_dir: Path, agent: str, version: str) -> str:
    """UsageError that names the versions there are."""
    known = versions(models_dir, check_agent(agent))
    if version not in known:
        raise UsageError(f"{agent} has no version {version!r} in {models_dir}; it has {', '.join(known) or 'none'}")
    return version


def version_rows(models_dir: Path, agent: str, now_ms: int) -> list[VersionRow]:
    """Every version of an agent, the newest name first."""
    roles = _roles(models_dir, agent)
    return [
        _row(models_dir, agent, version, roles.get(version, "waiting"), now_ms)
        for version in reversed(versions(models_dir, agent))
    ]


def shown_manifest(models_dir: Path, agent: str, version: str) -> dict[str, Any]:
    """A manifest for people: without golden rows and the meta model's matrices."""
    fields = msgspec.to_builtins(read_manifest(models_dir, agent, version))
    return {name: value for name, value in fields.items() if name not in ("golden", "linear")}


def _roles(models_dir: Path, agent: str) -> dict[str, Role]:
    """By version; what serves counts most, then what would."""
    found: dict[str, Role] = dict.fromkeys(withdrawn(models_dir, agent), "withdrawn")
    for version, role in (
        (previous_version(models_dir, agent), "previous"),
        (shadow_version(models_dir, agent), "shadow"),
        (current_version(models_dir, agent), "current"),
    ):
        if version is not None:
            found[version] = role  # type: ignore[assignment]
    return found


def _row(models_dir: Path, agent: str, version: str, role: Role, now_ms: int) -> VersionRow:
    try:
        manifest = read_manifest(models_dir, agent, version)
    except ModelRefused as error:
        return VersionRow(agent=agent, version=version, role=role, problem=str(error))
    return VersionRow(
        agent=agent,
        version=version,
        role=role,
        quality=manifest.quality,
        age_s=age_s(manifest, now_ms),
        timeframe=manifest.timeframe,
        label_threshold=manifest.label_threshold,
        horizon_bars=manifest.horizon_bars,
        log_loss=manifest.metrics.get("log_loss"),
        log_loss_prior=manifest.metrics.get("log_loss_prior"),
    )

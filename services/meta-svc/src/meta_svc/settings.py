"""Settings of meta-svc. The META_ names are documented and carry no QT_ prefix."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from meta_svc.core import Policy
from meta_svc.ensemble import DEFAULT_WEIGHTS
from meta_svc.errors import UnknownMetaSetting
from meta_svc.versions import V2, meta_version
from quantum_common.domain import AGENTS
from quantum_common.service import FleetSettings


class Settings(FleetSettings):
    """Thresholds are fractions. Each field is read from the name in its alias."""

    model_config = SettingsConfigDict(populate_by_name=True)

    service: ClassVar[str] = "meta-svc"

    enabled: bool = Field(True, validation_alias="META_AGENT_ENABLED")
    """false: every decision is the base ensemble's."""
    override_threshold: float = Field(0.65, ge=0, le=1, validation_alias="META_OVERRIDE_THRESHOLD")
    """Meta confidence from which v2 and v2p override; v1 does above 0.60."""
    consensus_threshold: float = Field(0.75, gt=0, le=1, validation_alias="META_CONSENSUS_THRESHOLD")
    """Share of the four agents whose agreement stands."""
    fail_open: bool = Field(True, validation_alias="META_FAIL_OPEN")
    """On an error of the meta layer: true keeps the base ensemble, false forces HOLD."""
    regime_features: bool = Field(True, validation_alias="META_REGIME_FEATURES")
    """false: volatility and trend are neutral."""
    v2_model_dir: Path | None = Field(None, validation_alias="META_V2_MODEL_DIR")
    """Folder of v2 with the `current` pointer and the versions; default `<QT_MODELS_DIR>/meta`."""
    version: Literal["v1", "v2", "v2p"] = Field("v2", validation_alias="META_VERSION")
    """v2, v2p (v2 with the agents' log-probabilities; folder `meta-v2p`) or v1 (a small network; `meta-v1`)."""
    weights: dict[str, float] = Field(dict(DEFAULT_WEIGHTS), validation_alias="META_WEIGHTS")
    """JSON object with one positive weight per agent."""
    join_deadline_ms: int = Field(2000, ge=1, validation_alias="META_JOIN_DEADLINE_MS")
    """After the production of FeaturesComputed; without effect in a replay."""
    reset_stats_needs_token: bool = False
    """true: POST reset_stats needs the bearer token too."""

    @field_validator("weights")
    @classmethod
    def _one_per_agent(cls, value: dict[str, float]) -> dict[str, float]:
        if set(value) != set(AGENTS):
            raise ValueError(f"give one weight for each of {', '.join(AGENTS)}")
        # Written so that NaN fails: every comparison with it is false.
        if not all(0 < weight < float("inf") for weight in value.values()):
            raise ValueError("weights are positive numbers")
        return value

    @property
    def model_dir(self) -> Path:
        served = meta_version(self.version)
        own = self.v2_model_dir if served is V2 else None
        return own or self.models_dir / served.folder

    @property
    def policy(self) -> Policy:
        return Policy(
            enabled=self.enabled,
            fail_open=self.fail_open,
            meta_threshold=self.override_threshold,
            consensus_threshold=self.consensus_threshold,
            regime_features=self.regime_features,
            weights=self.weights,
            version=meta_version(self.version),
        )


def check_meta_names(environment: Iterable[str] | None = None) -> None:
    """Raise UnknownMetaSetting for a META_ name that is not declared here: a mistyped one must not be ignored (F13)."""
    names = os.environ if environment is None else environment
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    unknown = sorted(name for name in names if name.startswith("META_") and name not in known)
    if unknown:
        raise UnknownMetaSetting(f"unknown setting {', '.join(unknown)}: see services/meta-svc/README.md for the names")

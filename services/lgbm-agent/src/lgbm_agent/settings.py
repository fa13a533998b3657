"""Settings of lgbm-agent: the fleet's own."""

from typing import ClassVar

from quantum_common.service import FleetSettings


class Settings(FleetSettings):
    service: ClassVar[str] = "lgbm-agent"

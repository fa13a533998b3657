"""Settings of the monitor: those of every service, `QT_SERVICE_URL` above all."""

from __future__ import annotations

from typing import ClassVar

from quantum_common.service import FleetSettings


class Settings(FleetSettings):
    service: ClassVar[str] = "monitor-svc"

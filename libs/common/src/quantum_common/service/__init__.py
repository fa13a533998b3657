"""The service kit: one process, one task group, honest health, a clean stop."""

from quantum_common.service.clock import MarketClock
from quantum_common.service.control import Control, wake
from quantum_common.service.definition import Loop, Service
from quantum_common.service.http import require_token
from quantum_common.service.process import build_app, run
from quantum_common.service.settings import FleetSettings
from quantum_common.service.stop import Stop

__all__ = [
    "Control",
    "FleetSettings",
    "Loop",
    "MarketClock",
    "Service",
    "Stop",
    "build_app",
    "require_token",
    "run",
    "wake",
]

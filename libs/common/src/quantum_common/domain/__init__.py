"""Words of the field that every service shares."""

from quantum_common.domain.agents import AGENT_SERVICES, AGENTS
from quantum_common.domain.services import SERVICE_PORTS
from quantum_common.domain.signal import Action, Intent, OrderSide, Role
from quantum_common.domain.timeframe import DEFAULT_LABEL_THRESHOLD, TIMEFRAME_MS, decision_ts_ms, timeframe_ms

__all__ = [
    "AGENTS",
    "AGENT_SERVICES",
    "DEFAULT_LABEL_THRESHOLD",
    "SERVICE_PORTS",
    "TIMEFRAME_MS",
    "Action",
    "Intent",
    "OrderSide",
    "Role",
    "decision_ts_ms",
    "timeframe_ms",
]

"""Risk: turns decisions into approvals with a size, or refuses them with a reason."""

from governer_svc.agent import GovernerAgent
from governer_svc.config import RiskConfig
from governer_svc.core import PositionAllocation

__all__ = ["GovernerAgent", "PositionAllocation", "RiskConfig"]

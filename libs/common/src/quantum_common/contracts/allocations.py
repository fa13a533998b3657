"""The risk verdict on a decision."""

from decimal import Decimal

import msgspec

from quantum_common.domain.signal import Action, Intent


class PositionApproved(msgspec.Struct, frozen=True):
    """Leave to open a position of at most this size, or to close the present one."""

    decision_id: str
    intent: Intent
    action: Action
    confidence: float
    position_size_usd: Decimal
    """Upper bound of the order's notional; 0 for a close."""
    position_size_pct: float
    """Fraction of the balance."""
    risk_amount_usd: Decimal
    kelly_optimal: float
    stop_distance_fraction: float
    """Distance of the protective stop from the entry price, fraction of it."""
    take_profit_distance_fraction: float
    expires_at_ms: int
    """Market time after which the executor may no longer submit the entry."""
    batch_rank: int
    """Place in the bar's joint allocation, best confidence first, from 0."""
    reason: str = "APPROVED"


class PositionRejected(msgspec.Struct, frozen=True):
    decision_id: str
    action: str
    confidence: float
    reason: str
    """Code without numbers: the label of metrics."""
    detail: str
    """Code with its numbers, as logged: LOW_CONFIDENCE (0.500 < 0.650)."""
    batch_rank: int


class ApprovalExpired(msgspec.Struct, frozen=True):
    """An approval ended unfilled; its size and slot are given back."""

    decision_id: str
    released_usd: Decimal

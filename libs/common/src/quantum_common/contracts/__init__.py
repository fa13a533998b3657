"""Everything that travels on the bus, and the names it travels under."""

from quantum_common.contracts.allocations import ApprovalExpired, PositionApproved, PositionRejected
from quantum_common.contracts.control import Look
from quantum_common.contracts.decisions import DecisionMade, Explanation, Vote
from quantum_common.contracts.envelope import (
    PAYLOADS,
    BadEvent,
    Envelope,
    Producer,
    content_id,
    decode,
    encode,
    envelope,
)
from quantum_common.contracts.executions import (
    AccountPosition,
    AccountUpdated,
    FundingPaid,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    PositionDrifted,
    TradeClosed,
)
from quantum_common.contracts.features import Candle, FeaturesComputed
from quantum_common.contracts.predictions import PredictionAbstained, PredictionMade
from quantum_common.contracts.streams import (
    ALLOCATIONS,
    CONTROL,
    DECISIONS,
    EXECUTIONS,
    FEATURES,
    PREDICTIONS,
    REGISTRY,
    Keys,
    StreamSpec,
    dead,
)

__all__ = [
    "ALLOCATIONS",
    "CONTROL",
    "DECISIONS",
    "EXECUTIONS",
    "FEATURES",
    "PAYLOADS",
    "PREDICTIONS",
    "REGISTRY",
    "AccountPosition",
    "AccountUpdated",
    "ApprovalExpired",
    "BadEvent",
    "Candle",
    "DecisionMade",
    "Envelope",
    "Explanation",
    "FeaturesComputed",
    "FundingPaid",
    "Keys",
    "Look",
    "OrderAccepted",
    "OrderCanceled",
    "OrderFilled",
    "OrderRejected",
    "OrderSubmitted",
    "PositionApproved",
    "PositionDrifted",
    "PositionRejected",
    "PredictionAbstained",
    "PredictionMade",
    "Producer",
    "StreamSpec",
    "TradeClosed",
    "Vote",
    "content_id",
    "dead",
    "decode",
    "encode",
    "envelope",
]

"""What a base agent says of one symbol and bar: a vote or an abstention, never a masked error."""

from typing import Literal

import msgspec

from quantum_common.domain.signal import Action

AbstainReason = Literal[
    "model_not_loaded", "not_enough_history", "feature_mismatch", "prediction_error", "invalid_output", "collapsed"
]


class PredictionMade(msgspec.Struct, frozen=True):
    """A vote. `role` shadow is recorded and never joins the vote."""

    agent: str
    action: Action
    confidence: float
    """Probability of `action`."""
    probabilities: tuple[float, float, float]
    """P(SELL), P(HOLD), P(BUY)."""
    model_version: str
    role: Literal["champion", "shadow"]
    inference_ms: float
    """Wall time of the batch this row was in, divided by its rows."""


class PredictionAbstained(msgspec.Struct, frozen=True):
    """No vote, and why."""

    agent: str
    reason: AbstainReason
    detail: str
    model_version: str | None = None
    """The served version when it is the reason (`collapsed`, `invalid_output`, `prediction_error`)."""

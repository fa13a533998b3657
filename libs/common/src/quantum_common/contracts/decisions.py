"""The one decision of a symbol and bar, with everything that explains it."""

from typing import Literal

import msgspec

from quantum_common.domain.signal import Action

Trigger = Literal["complete", "deadline", "next_bar"]


class Vote(msgspec.Struct, frozen=True):
    """One agent's part in a decision. `action` None = abstained, with the reason."""

    agent: str
    action: Action | None
    confidence: float
    probabilities: tuple[float, float, float] | None
    model_version: str | None
    abstain_reason: str | None


class Explanation(msgspec.Struct, frozen=True):
    """Inputs of the meta model and what each added to the logit of the chosen class."""

    feature_names: tuple[str, ...]
    inputs: tuple[float, ...]
    contributions: tuple[float, ...]
    """coefficient × standardised value / temperature, per input, for the meta model's own best class.

    Empty when the model is not linear (V1): then there is nothing exact to say. Not null, which older readers refuse.
    """
    bias: float
    """With the contributions it sums to the calibrated logit; 0 where there are none."""


class DecisionMade(msgspec.Struct, frozen=True):
    """Action and confidence of a symbol at a bar. Its event id is the decision id."""

    action: Action
    confidence: float
    reason: str
    use_meta: bool
    meta_action: Action | None
    meta_confidence: float | None
    base_ensemble_action: Action
    base_ensemble_confidence: float
    consensus_strength: float
    votes: tuple[Vote, ...]
    """One per configured agent, in the order of AGENTS."""
    explanation: Explanation | None
    """None when the meta model was not asked (no votes, disabled, not loaded, feature error)."""
    trigger: Trigger
    input_event_ids: tuple[str, ...]
    meta_version: str
    """v1, v2 or v2p."""
    meta_model_version: str | None
    volatility: float
    trend_strength: float

"""The decision order: which rule decides a bar, and with what action, confidence and reason.

Two pure steps with the model between them, so that the shell can ask it once for all symbols of a bar:
`draft` applies the rules that need no model output, `conclude` the ones that do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from meta_svc.ensemble import DEFAULT_WEIGHTS, Consensus, Scored, base_ensemble, best_class, consensus
from meta_svc.errors import FeatureError
from meta_svc.explain import explain
from meta_svc.question import Question, Regime
from meta_svc.versions import V2, MetaVersion
from quantum_common.contracts import Explanation
from quantum_common.domain import Action
from quantum_common.models import LinearModel

NO_PREDICTIONS = "no_predictions"
META_DISABLED = "meta_disabled"
MODEL_NOT_LOADED = "model_not_loaded"
FEATURE_ERROR = "feature_error"
FEATURE_DIM_MISMATCH = "feature_dim_mismatch"
PREDICTION_ERROR = "prediction_error"
INVALID_CONFIDENCE = "invalid_confidence"

ERRORS = frozenset({MODEL_NOT_LOADED, FEATURE_ERROR, FEATURE_DIM_MISMATCH, PREDICTION_ERROR, INVALID_CONFIDENCE})
"""Reasons that force HOLD when the meta layer fails closed."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings a decision depends on. Thresholds are fractions; weights are positive, one per agent."""

    enabled: bool = True
    fail_open: bool = True
    meta_threshold: float = 0.65
    consensus_threshold: float = 0.75
    regime_features: bool = True
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    version: MetaVersion = V2

    @property
    def override_threshold(self) -> float:
        """The meta confidence from which (V1: above which) the model overrides."""
        return self.meta_threshold if self.version.threshold is None else self.version.threshold

    def overrides(self, confidence: float) -> bool:
        return self.version.reaches(confidence, self.override_threshold)


@dataclass(frozen=True, slots=True)
class Draft:
    """A bar before the model has spoken.

    `reason` is the rule that already matched (rows 0-4), or None. `inputs` is what the model is asked, or None when it
    is not. On a strong consensus it is asked too, for the explanation only.
    """

    base: Scored
    consensus: Consensus
    reason: str | None
    inputs: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What meta-svc decides for a symbol and bar."""

    action: Action
    confidence: float
    reason: str
    use_meta: bool
    meta_action: Action | None
    meta_confidence: float | None
    base: Scored
    consensus_strength: float
    explanation: Explanation | None


def draft(question: Question, policy: Policy, model_width: int | None) -> Draft:
    """Rows 0 to 4. `model_width` is the number of inputs of the model that serves, None when there is none."""
    base = base_ensemble(question.votes, policy.weights)
    agreed = consensus(question.votes, policy.weights)
    reason = _rule_before_inputs(agreed, policy, model_width)
    if reason in (NO_PREDICTIONS, META_DISABLED, MODEL_NOT_LOADED):
        return Draft(base, agreed, reason, None)
    seen = question if policy.regime_features else question._replace(regime=Regime())
    try:
        inputs = tuple(policy.version.build(seen))
    except FeatureError:
        return Draft(base, agreed, reason or FEATURE_ERROR, None)
    if len(inputs) != model_width:
        return Draft(base, agreed, reason or FEATURE_DIM_MISMATCH, None)
    return Draft(base, agreed, reason, inputs)


def conclude(
    drafted: Draft, probabilities: Sequence[float] | None, policy: Policy, linear: LinearModel | None
) -> Outcome:
    """Rows 5 to 7, or the rule that had matched. `probabilities` is None when the model raised or was not asked."""
    meta = _meta_vote(probabilities)
    override = drafted.reason is None and meta is not None and policy.overrides(meta.confidence)
    if override and meta is not None:
        decided, reason = meta, f"meta_override_{meta.action.lower()}"
    else:
        reason = drafted.reason or _reason_to_keep(probabilities, meta)
        decided = _deferred(drafted, reason, policy)
    return Outcome(
        action=decided.action,
        confidence=decided.confidence,
        reason=reason,
        use_meta=override,
        meta_action=meta.action if meta else None,
        meta_confidence=meta.confidence if meta else None,
        base=drafted.base,
        consensus_strength=drafted.consensus.strength,
        explanation=_explanation(drafted, meta, policy.version, linear),
    )


def _rule_before_inputs(agreed: Consensus, policy: Policy, model_width: int | None) -> str | None:
    if agreed.strength == 0.0:
        return NO_PREDICTIONS
    if not policy.enabled:
        return META_DISABLED
    if model_width is None:
        return MODEL_NOT_LOADED
    if policy.version.consensus_rule and agreed.action is not None and agreed.strength >= policy.consensus_threshold:
        return f"strong_consensus_{agreed.action.lower()}"
    return None


def _reason_to_keep(probabilities: Sequence[float] | None, meta: Scored | None) -> str:
    if probabilities is None:
        return PREDICTION_ERROR
    if meta is None:
        return INVALID_CONFIDENCE
    return f"meta_low_confidence_{meta.confidence:.2f}"


def _meta_vote(probabilities: Sequence[float] | None) -> Scored | None:
    """The meta model's best class; None unless it gave three probabilities (NaN is none: every comparison fails)."""
    if probabilities is None or not all(0.0 <= p <= 1.0 for p in probabilities):
        return None
    return best_class(probabilities)


def _deferred(drafted: Draft, reason: str, policy: Policy) -> Scored:
    if reason in ERRORS and not policy.fail_open:
        return Scored(Action.HOLD, 0.0)
    if drafted.consensus.action is not None and reason.startswith("strong_consensus_"):
        return Scored(drafted.consensus.action, drafted.consensus.confidence)
    return drafted.base


def _explanation(
    drafted: Draft, meta: Scored | None, version: MetaVersion, linear: LinearModel | None
) -> Explanation | None:
    if drafted.inputs is None or meta is None:
        return None
    return explain(version.feature_names, drafted.inputs, meta.action, linear)

"""From events to a question, and from its outcome to the event that is published. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from meta_svc.core import Outcome
from meta_svc.decide import MetaModel
from meta_svc.ensemble import BaseVote
from meta_svc.inputs import NEUTRAL_TREND_STRENGTH, NEUTRAL_VOLATILITY
from meta_svc.join import Due, HeldBar
from meta_svc.question import ClassProbabilities, Question, Regime
from quantum_common.contracts import DecisionMade, Envelope, PredictionAbstained, PredictionMade, Vote
from quantum_common.domain import AGENTS

MISSING = "missing"
"""Abstain reason of an agent that had said nothing when the bar was decided."""
INVALID_OUTPUT = "invalid_output"


def question_of(bar: HeldBar) -> Question:
    """What the core is asked about a bar: votes, and the regime unless the features event never came."""
    votes: dict[str, BaseVote | None] = {}
    probabilities: dict[str, ClassProbabilities] = {}
    for vote in votes_of(bar):
        votes[vote.agent] = None if vote.action is None else (vote.action, vote.confidence)
        if vote.probabilities is not None:
            probabilities[vote.agent] = vote.probabilities
    if bar.features is None:
        return Question(votes, Regime(), probabilities)
    features = bar.features.event.payload
    return Question(votes, Regime(features.volatility, features.trend_strength), probabilities)


def votes_of(bar: HeldBar) -> tuple[Vote, ...]:
    """One vote or abstention per configured agent, in the order of AGENTS."""
    return tuple(_vote(agent, _payload(bar, agent)) for agent in AGENTS)


def voted_in(votes: Iterable[Vote]) -> list[str]:
    """Agents that did not abstain."""
    return [vote.agent for vote in votes if vote.action is not None]


def decision_of(due: Due, outcome: Outcome, model: MetaModel | None, meta_version: str) -> DecisionMade:
    """The event's payload; nothing in it depends on when or in what order its inputs arrived.

    `meta_version` is v1, v2 or v2p.
    """
    question = question_of(due.bar)
    volatility, trend_strength = question.regime.volatility, question.regime.trend_strength
    return DecisionMade(
        action=outcome.action,
        confidence=outcome.confidence,
        reason=outcome.reason,
        use_meta=outcome.use_meta,
        meta_action=outcome.meta_action,
        meta_confidence=outcome.meta_confidence,
        base_ensemble_action=outcome.base.action,
        base_ensemble_confidence=outcome.base.confidence,
        consensus_strength=outcome.consensus_strength,
        votes=votes_of(due.bar),
        explanation=outcome.explanation,
        trigger=due.trigger,
        input_event_ids=_input_event_ids(due.bar),
        meta_version=meta_version,
        meta_model_version=model.version if model else None,
        volatility=NEUTRAL_VOLATILITY if volatility is None else volatility,
        trend_strength=NEUTRAL_TREND_STRENGTH if trend_strength is None else trend_strength,
    )


def _vote(agent: str, payload: PredictionMade | PredictionAbstained | None) -> Vote:
    if payload is None:
        return _abstention(agent, MISSING)
    if isinstance(payload, PredictionAbstained):
        return _abstention(agent, payload.reason)
    if not (math.isfinite(payload.confidence) and 0.0 <= payload.confidence <= 1.0):
        return _abstention(agent, INVALID_OUTPUT)
    return Vote(agent, payload.action, payload.confidence, payload.probabilities, payload.model_version, None)


def _abstention(agent: str, reason: str) -> Vote:
    return Vote(agent, None, 0.0, None, None, reason)


def _payload(bar: HeldBar, agent: str) -> Any:
    received = bar.predictions.get(agent)
    return None if received is None else received.event.payload


def _input_event_ids(bar: HeldBar) -> tuple[str, ...]:
    features: list[Envelope[Any]] = [] if bar.features is None else [bar.features.event]
    return tuple(sorted(event.event_id for event in (*features, *(each.event for each in bar.predictions.values()))))

"""What the base agents say together: the weighted vote and the share that agrees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantum_common.domain import AGENTS, Action
from quantum_common.domain.signal import CLASS_ORDER

BaseVote = tuple[Action, float]
"""An action and the agent's probability of it."""
Votes = Mapping[str, BaseVote | None]
"""Vote of each agent; None (or left out) = it abstained."""

DEFAULT_WEIGHTS: dict[str, float] = {"xgb": 0.25, "lgbm": 0.25, "nhits": 0.30, "patchtst": 0.20}

TIE_DECIMALS = 12
"""Scores that agree to so many decimals tie: 0.25·0.4 + 0.2·0.25 and 0.3·0.5 are both 0.15, but not as floats."""


@dataclass(frozen=True, slots=True)
class Scored:
    """An action and its confidence in [0, 1]."""

    action: Action
    confidence: float


@dataclass(frozen=True, slots=True)
class Consensus:
    """The action with most votes. `strength` is its share of the four configured agents.

    `action` is None when two actions have the most votes (or nobody voted): then nothing is agreed on, whatever the
    threshold. `confidence` is the weighted mean confidence of the agreeing agents.
    """

    action: Action | None
    strength: float
    confidence: float


def base_ensemble(votes: Votes, weights: Mapping[str, float]) -> Scored:
    """Highest Σ weight × confidence over the weights of the agents present; an exact tie and no vote give HOLD."""
    present = _present(votes)
    total = math.fsum(weights[agent] for agent, _ in present)
    if total == 0.0:
        return Scored(Action.HOLD, 0.0)
    scores = [
        math.fsum(weights[agent] * confidence for agent, (voted, confidence) in present if voted == action) / total
        for action in CLASS_ORDER
    ]
    return best_class(scores)


def best_class(scores: Sequence[float]) -> Scored:
    """The class with the highest of three scores in CLASS_ORDER, HOLD when two tie, with the score of that class."""
    rounded = [round(score, TIE_DECIMALS) for score in scores]
    winners = [action for action, score in zip(CLASS_ORDER, rounded, strict=True) if score == max(rounded)]
    action = winners[0] if len(winners) == 1 else Action.HOLD
    return Scored(action, scores[action.class_index])


def consensus(votes: Votes, weights: Mapping[str, float]) -> Consensus:
    """How far the agents agree."""
    present = _present(votes)
    counts = {action: sum(voted == action for _, (voted, _) in present) for action in CLASS_ORDER}
    most = max(counts.values())
    leaders = [action for action, count in counts.items() if count == most]
    strength = most / len(AGENTS)
    if most == 0 or len(leaders) > 1:
        return Consensus(None, strength, 0.0)
    agreeing = [(weights[agent], confidence) for agent, (voted, confidence) in present if voted == leaders[0]]
    weight = math.fsum(w for w, _ in agreeing)
    return Consensus(leaders[0], strength, math.fsum(w * c for w, c in agreeing) / weight)


def _present(votes: Votes) -> list[tuple[str, BaseVote]]:
    # In the order of AGENTS, never of arrival: a sum must not depend on who came first.
    return [(agent, vote) for agent in AGENTS if (vote := votes.get(agent)) is not None]

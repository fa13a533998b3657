"""The 26 inputs of the V2 meta model: one pure function for training and serving.

Per agent in the order of AGENTS (xgb, lgbm, nhits, patchtst) the one-hot [sell, hold, buy] and the confidence (16);
confidence aggregates over the agents present (4); vote shares over the four configured agents and disagreement (4);
regime (2). An abstaining agent is all zeros. Information cut-off: votes on bar t, which use bars closing ≤ t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from meta_svc.errors import FeatureError
from quantum_common.domain import AGENTS, Action
from quantum_common.domain.signal import CLASS_ORDER

NEUTRAL_VOLATILITY = 0.5
NEUTRAL_TREND_STRENGTH = 0.0

FEATURE_NAMES_V2: tuple[str, ...] = (
    *(f"{agent}_{part}" for agent in AGENTS for part in ("sell", "hold", "buy", "conf")),
    "mean_confidence",
    "max_confidence",
    "min_confidence",
    "confidence_std",
    "vote_buy_pct",
    "vote_sell_pct",
    "vote_hold_pct",
    "disagreement",
    "volatility",
    "trend_strength",
)


def build_inputs(
    votes: Mapping[str, tuple[Action, float] | None], volatility: float | None, trend_strength: float | None
) -> list[float]:
    """The input vector, in the order of FEATURE_NAMES_V2.

    `votes` maps an agent to (action, probability of it), or to None when it abstains; an agent left out abstains.
    `volatility` in [0, 1] and `trend_strength` in [-1, 1]; None when regime features are off or missing (0.5 and 0.0).
    Raises FeatureError, naming the input, for an unknown agent and for a number that is not finite or out of range.
    """
    unknown = sorted(votes.keys() - set(AGENTS))
    if unknown:
        raise FeatureError(f"agent {unknown[0]!r} is not one of {', '.join(AGENTS)}")
    present = [(agent, vote) for agent in AGENTS if (vote := votes.get(agent)) is not None]
    for agent, (_, confidence) in present:
        _require(f"{agent}_conf", confidence, 0.0, 1.0)
    return [
        *(value for agent in AGENTS for value in _one_hot(votes.get(agent))),
        *_confidence_aggregates([confidence for _, (_, confidence) in present]),
        *_vote_shares([action for _, (action, _) in present]),
        *_regime(volatility, trend_strength),
    ]


def _one_hot(vote: tuple[Action, float] | None) -> list[float]:
    if vote is None:
        return [0.0] * 4
    action, confidence = vote
    return [*(float(action == candidate) for candidate in CLASS_ORDER), confidence]


def _confidence_aggregates(confidences: list[float]) -> list[float]:
    """Mean, max, min and population standard deviation; zeros when every agent abstains."""
    if not confidences:
        return [0.0] * 4
    mean = math.fsum(confidences) / len(confidences)
    variance = math.fsum((confidence - mean) ** 2 for confidence in confidences) / len(confidences)
    return [mean, max(confidences), min(confidences), math.sqrt(variance)]


def _vote_shares(actions: list[Action]) -> list[float]:
    """Shares of BUY, SELL and HOLD, and 1 − the largest of them, all over the configured agents."""
    shares = [actions.count(action) / len(AGENTS) for action in (Action.BUY, Action.SELL, Action.HOLD)]
    return [*shares, 1.0 - max(shares)]


def _regime(volatility: float | None, trend_strength: float | None) -> list[float]:
    volatility = NEUTRAL_VOLATILITY if volatility is None else volatility
    trend_strength = NEUTRAL_TREND_STRENGTH if trend_strength is None else trend_strength
    _require("volatility", volatility, 0.0, 1.0)
    _require("trend_strength", trend_strength, -1.0, 1.0)
    return [volatility, trend_strength]


def _require(name: str, value: float, low: float, high: float) -> None:
    # Written so that NaN fails: every comparison with it is false.
    if not low <= value <= high:
        raise FeatureError(f"{name}: {value} is not in [{low:g}, {high:g}]")

"""The inputs of the meta learners: one pure function each, for training and serving.

V2, 26: per agent in the order of AGENTS (xgb, lgbm, nhits, patchtst) the one-hot [sell, hold, buy] and the confidence
(16); confidence aggregates over the agents present (4); vote shares over the four configured agents and disagreement
(4); regime (2). An abstaining agent is all zeros. v2p, 38: those, and the logarithms of each agent's three
probabilities (12). V1, 8: four confidences and four action codes.
Information cut-off: votes on bar t, which use bars closing ≤ t. `batch.py` builds many rows at once, bit for bit alike.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from functools import reduce

from meta_svc.ensemble import BaseVote, Votes
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

SMALLEST_PROBABILITY = 1e-6
"""Probabilities are cut off here before the logarithm: that of 0 is no number."""

FEATURE_NAMES_V2P: tuple[str, ...] = (
    *FEATURE_NAMES_V2,
    *(f"{agent}_log_{part}" for agent in AGENTS for part in ("sell", "hold", "buy")),
)

AGENTS_V1: tuple[str, ...] = ("xgb", "lgbm", "patchtst", "nhits")
"""V1's own order, which is not that of AGENTS."""

FEATURE_NAMES_V1: tuple[str, ...] = (
    *(f"{agent}_conf" for agent in AGENTS_V1),
    *(f"{agent}_action" for agent in AGENTS_V1),
)


def build_inputs(votes: Votes, volatility: float | None, trend_strength: float | None) -> list[float]:
    """The input vector of V2, in the order of FEATURE_NAMES_V2.

    `votes` maps an agent to (action, probability of it), or to None when it abstains; an agent left out abstains.
    `volatility` in [0, 1] and `trend_strength` in [-1, 1]; None when regime features are off or missing (0.5 and 0.0).
    Raises FeatureError, naming the input, for an unknown agent and for a number that is not finite or out of range.
    """
    _check_votes(votes)
    present = [vote for agent in AGENTS if (vote := votes.get(agent)) is not None]
    return [
        *(value for agent in AGENTS for value in _one_hot(votes.get(agent))),
        *_confidence_aggregates([confidence for _, confidence in present]),
        *_vote_shares([action for action, _ in present]),
        *_regime(volatility, trend_strength),
    ]


def build_inputs_v2p(
    votes: Votes,
    probabilities: Mapping[str, Sequence[float]],
    volatility: float | None,
    trend_strength: float | None,
) -> list[float]:
    """The input vector of v2p, in the order of FEATURE_NAMES_V2P: V2's, then natural logarithms.

    `probabilities` holds P(SELL), P(HOLD), P(BUY) of every agent that votes. Raises FeatureError like `build_inputs`,
    and when an agent votes without its three probabilities.
    """
    return [
        *build_inputs(votes, volatility, trend_strength),
        *(value for agent in AGENTS for value in _logarithms(agent, votes.get(agent), probabilities.get(agent))),
    ]


def build_inputs_v1(votes: Votes) -> list[float]:
    """The input vector of V1, in the order of FEATURE_NAMES_V1: confidences, then action codes (SELL 0, HOLD 1, BUY 2).

    An abstaining agent has confidence 0 and code 1. Raises FeatureError like `build_inputs`.
    """
    _check_votes(votes)
    given = [votes.get(agent) or (Action.HOLD, 0.0) for agent in AGENTS_V1]
    return [*(confidence for _, confidence in given), *(float(action.class_index) for action, _ in given)]


def _check_votes(votes: Votes) -> None:
    unknown = sorted(votes.keys() - set(AGENTS))
    if unknown:
        raise FeatureError(f"agent {unknown[0]!r} is not one of {', '.join(AGENTS)}")
    for agent, vote in votes.items():
        if vote is not None:
            _require(f"{agent}_conf", vote[1], 0.0, 1.0)


def _logarithms(agent: str, vote: BaseVote | None, probabilities: Sequence[float] | None) -> list[float]:
    if vote is None:
        return [0.0] * 3
    if probabilities is None or len(probabilities) != 3:
        raise FeatureError(f"{agent}_probabilities: {probabilities} is not [P(SELL), P(HOLD), P(BUY)]")
    for value in probabilities:
        _require(f"{agent}_probabilities", value, 0.0, 1.0)
    return [math.log(max(value, SMALLEST_PROBABILITY)) for value in probabilities]


def _one_hot(vote: BaseVote | None) -> list[float]:
    if vote is None:
        return [0.0] * 4
    action, confidence = vote
    return [*(float(action == candidate) for candidate in CLASS_ORDER), confidence]


def _confidence_aggregates(confidences: list[float]) -> list[float]:
    """Mean, max, min and population standard deviation; zeros when every agent abstains."""
    if not confidences:
        return [0.0] * 4
    mean = _sum(confidences) / len(confidences)
    deviations = [confidence - mean for confidence in confidences]
    variance = _sum([deviation * deviation for deviation in deviations]) / len(confidences)
    return [mean, max(confidences), min(confidences), math.sqrt(variance)]


def _sum(values: Sequence[float]) -> float:
    """Added one after the other in the order of AGENTS, as the batch does it, so that both agree to the last bit."""
    return reduce(operator.add, values)


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

"""What is asked about one bar: the votes, the probabilities behind them, and the regime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from meta_svc.ensemble import Votes

ClassProbabilities = tuple[float, float, float]
"""P(SELL), P(HOLD), P(BUY)."""


@dataclass(frozen=True, slots=True)
class Regime:
    """Volatility in [0, 1] and trend strength in [-1, 1]; None = not known."""

    volatility: float | None = None
    trend_strength: float | None = None


class Question(NamedTuple):
    """One bar to decide."""

    votes: Votes
    regime: Regime
    probabilities: Mapping[str, ClassProbabilities] = MappingProxyType({})
    """Of each agent that votes; only v2p looks at them."""

"""Counts of decisions by reason, and the warning about too many overrides.

Law: total_predictions = meta_overrides + Σ fallback_reasons at every instant. It holds because the total is never
stored: there is one counter per outcome, and the total is their sum.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

OVERRIDES = "meta_overrides"
FALLBACK_REASONS: tuple[str, ...] = (
    "strong_consensus",
    "low_meta_confidence",
    "model_not_loaded",
    "feature_dim_mismatch",
    "invalid_confidence",
    "feature_error",
    "prediction_error",
    "meta_disabled",
    "no_predictions",
)
COUNTERS: tuple[str, ...] = (OVERRIDES, *FALLBACK_REASONS)
"""Every outcome a decision is counted under: exactly one of them."""

_PREFIXES = {
    "meta_override_": OVERRIDES,
    "strong_consensus_": "strong_consensus",
    "meta_low_confidence_": "low_meta_confidence",
}

HIGH_OVERRIDE_RATE = 0.40
OVERRIDE_WINDOW = 500
FEWEST_TO_JUDGE = 50
"""With fewer decisions than this a rate says nothing: the first override would already be 100 %."""


class Statistics(TypedDict):
    """What the status surfaces show. `override_rate` is a fraction, not rounded."""

    total_predictions: int
    meta_overrides: int
    override_rate: float
    fallback_reasons: dict[str, int]
    model_ready: bool
    meta_threshold: float
    consensus_threshold: float
    version: str


def counter_of(reason: str) -> str:
    """The counter a decision's reason is counted under. Raises KeyError for a reason of no rule."""
    for prefix, counter in _PREFIXES.items():
        if reason.startswith(prefix):
            return counter
    if reason not in FALLBACK_REASONS:
        raise KeyError(reason)
    return reason


def statistics(
    counts: Mapping[str, int], *, model_ready: bool, meta_threshold: float, consensus_threshold: float, version: str
) -> Statistics:
    """The documented fields from one count per outcome; an outcome left out counts 0."""
    fallback = {reason: counts.get(reason, 0) for reason in FALLBACK_REASONS}
    overrides = counts.get(OVERRIDES, 0)
    total = overrides + sum(fallback.values())
    return Statistics(
        total_predictions=total,
        meta_overrides=overrides,
        override_rate=overrides / total if total else 0.0,
        fallback_reasons=fallback,
        model_ready=model_ready,
        meta_threshold=meta_threshold,
        consensus_threshold=consensus_threshold,
        version=version,
    )


@dataclass(slots=True)
class OverrideWatch:
    """Share of overrides among the last 500 decisions. Warns when it rises above 40 %, once until it has fallen."""

    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=OVERRIDE_WINDOW))
    high: bool = False

    def add(self, override: bool) -> str | None:
        """Count one decision; the warning to log, if this one crossed the line."""
        self.recent.append(override)
        was_high, self.high = self.high, self.rate > HIGH_OVERRIDE_RATE and len(self.recent) >= FEWEST_TO_JUDGE
        return self.warning if self.high and not was_high else None

    @property
    def rate(self) -> float:
        return sum(self.recent) / len(self.recent) if self.recent else 0.0

    @property
    def warning(self) -> str:
        return f"High override rate: {self.rate * 100:.0f} % (threshold: {HIGH_OVERRIDE_RATE * 100:.0f} %)"


class WeightWatch:
    """What share of the ensemble's weight each agent really had in the last 500 decisions (F08).

    The weight of an agent that abstains goes to those that vote; a decision without a vote gives nobody any.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._recent: deque[Collection[str]] = deque(maxlen=OVERRIDE_WINDOW)

    def add(self, voted: Collection[str]) -> None:
        """Count one decision by the agents that voted in it."""
        self._recent.append(voted)

    def shares(self) -> dict[str, float]:
        """Agent → mean share in [0, 1]; empty before the first decision."""
        sums = dict.fromkeys(self._weights, 0.0)
        for voted in self._recent:
            present = sum(self._weights[agent] for agent in voted)
            for agent in voted:
                sums[agent] += self._weights[agent] / present
        return {agent: total / len(self._recent) for agent, total in sums.items()} if self._recent else {}

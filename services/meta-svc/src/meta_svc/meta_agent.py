"""The meta layer as a plain Python object: the stable public interface, over the same cores as the service."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta_svc.core import Outcome, Policy, Regime
from meta_svc.decide import Question, decide
from meta_svc.ensemble import DEFAULT_WEIGHTS, BaseVote
from meta_svc.lines import decision_line
from meta_svc.result import as_dict
from meta_svc.serving import VERSION, MetaSlot
from meta_svc.statistics import OverrideWatch, Statistics, counter_of, statistics
from quantum_common.domain import Action

log = logging.getLogger(__name__)


class MetaAgentV2:
    """Decides one symbol at a time, without a bus. Not for use from several threads at once.

    `model_dir` holds the `current` pointer and the versions; without it, or when its model is refused, every
    prediction defers to the base ensemble (or forces HOLD with `fail_open=False`).
    """

    def __init__(
        self,
        model_dir: str | Path | None = None,
        meta_threshold: float = 0.65,
        consensus_threshold: float = 0.75,
        enable_regime_features: bool = True,
        *,
        fail_open: bool = True,
        enabled: bool = True,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    ) -> None:
        self._policy = Policy(
            enabled, fail_open, meta_threshold, consensus_threshold, enable_regime_features, dict(weights)
        )
        self._slot = MetaSlot(None if model_dir is None else Path(model_dir), meta_threshold)
        self._slot.look()
        self._counts: Counter[str] = Counter()
        self._watch = OverrideWatch()

    def predict(
        self,
        base_predictions: Mapping[str, Mapping[str, Any] | None],
        regime_info: Mapping[str, Any] | None = None,
        symbol: str = "",
    ) -> dict[str, Any]:
        """The documented result fields. Counted in the statistics.

        Votes are {"action": "BUY", "confidence": 0.7} by agent, the action in any case. An agent left out or None
        abstains, and so does one whose vote is no action with a probability: what cannot be read must not vote.
        """
        regime = regime_info or {}
        votes = {agent: _vote(given) for agent, given in base_predictions.items()}
        question = Question(votes, Regime(*(_number(regime.get(name)) for name in ("volatility", "trend_strength"))))
        outcome = decide([question], self._policy, self._slot.model)[0]
        self._count(symbol, outcome)
        return as_dict(outcome, votes)

    def get_statistics(self) -> Statistics:
        """Counts since the start or the last reset. `override_rate` is a fraction."""
        return statistics(
            self._counts,
            model_ready=self.is_ready(),
            meta_threshold=self._policy.meta_threshold,
            consensus_threshold=self._policy.consensus_threshold,
            version=VERSION,
        )

    def reset_statistics(self) -> None:
        self._counts.clear()
        self._watch = OverrideWatch()

    def is_ready(self) -> bool:
        """Whether a valid model is loaded."""
        return self._slot.model is not None

    def _count(self, symbol: str, outcome: Outcome) -> None:
        self._counts[counter_of(outcome.reason)] += 1
        log.info(decision_line(symbol, outcome))
        if (warning := self._watch.add(outcome.use_meta)) is not None:
            log.warning(warning)


def _vote(given: Mapping[str, Any] | None) -> BaseVote | None:
    try:
        action, confidence = Action(str((given or {})["action"]).upper()), float((given or {})["confidence"])
    except (KeyError, TypeError, ValueError):
        return None
    return (action, confidence) if 0.0 <= confidence <= 1.0 else None


def _number(given: Any) -> float | None:
    """None = not known. What is no number becomes NaN, which the core reports as `feature_error`."""
    try:
        return None if given is None else float(given)
    except (TypeError, ValueError):
        return math.nan

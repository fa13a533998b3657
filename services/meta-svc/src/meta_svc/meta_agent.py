"""The meta layer as a plain Python object: the stable public interface, over the same cores as the service."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta_svc.core import Outcome, Policy
from meta_svc.decide import decide
from meta_svc.ensemble import DEFAULT_WEIGHTS, BaseVote
from meta_svc.errors import MissingProbabilities
from meta_svc.lines import decision_line
from meta_svc.question import ClassProbabilities, Question, Regime
from meta_svc.result import as_dict
from meta_svc.serving import MetaSlot
from meta_svc.statistics import OverrideWatch, Statistics, counter_of, statistics
from meta_svc.versions import meta_version, require_probabilities
from quantum_common.domain import Action

log = logging.getLogger(__name__)


class MetaAgentV2:
    """Decides one symbol at a time, without a bus. Not for use from several threads at once.

    `model_dir` holds the `current` pointer and the versions; without it, or when its model is refused, every
    prediction defers to the base ensemble (or forces HOLD with `fail_open=False`). `version` says which learner's model
    it is: v2, v2p or v1 (whose threshold is its own). Raises UnknownMetaVersion.
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
        version: str = "v2",
    ) -> None:
        self._policy = Policy(
            enabled=enabled,
            fail_open=fail_open,
            meta_threshold=meta_threshold,
            consensus_threshold=consensus_threshold,
            regime_features=enable_regime_features,
            weights=dict(weights),
            version=meta_version(version),
        )
        self._slot = MetaSlot(None if model_dir is None else Path(model_dir), self._policy)
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
        v2p needs "probabilities" too, [P(SELL), P(HOLD), P(BUY)]: MissingProbabilities names a vote without them.
        """
        regime = regime_info or {}
        votes = {agent: _vote(given) for agent, given in base_predictions.items()}
        question = Question(
            votes,
            Regime(*(_number(regime.get(name)) for name in ("volatility", "trend_strength"))),
            {agent: stated for agent, given in base_predictions.items() if (stated := _probabilities(agent, given))},
        )
        require_probabilities(question, self._policy.version)
        outcome = decide([question], self._policy, self._slot.model)[0]
        self._count(symbol, outcome)
        return as_dict(outcome, votes)

    def get_statistics(self) -> Statistics:
        """Counts since the start or the last reset. `override_rate` is a fraction."""
        return statistics(
            self._counts,
            model_ready=self.is_ready(),
            meta_threshold=self._policy.override_threshold,
            consensus_threshold=self._policy.consensus_threshold,
            version=self._policy.version.name,
        )

    def reset_statistics(self) -> None:
        self._counts.clear()
        self._watch = OverrideWatch()

    def is_ready(self) -> bool:
        """Whether a valid model is loaded."""
        return self._slot.model is not None

    def _count(self, symbol: str, outcome: Outcome) -> None:
        self._counts[counter_of(outcome.reason)] += 1
        log.info(decision_line(symbol, outcome, self._policy.version))
        if (warning := self._watch.add(outcome.use_meta)) is not None:
            log.warning(warning)


def _vote(given: Mapping[str, Any] | None) -> BaseVote | None:
    try:
        action, confidence = Action(str((given or {})["action"]).upper()), float((given or {})["confidence"])
    except (KeyError, TypeError, ValueError):
        return None
    return (action, confidence) if 0.0 <= confidence <= 1.0 else None


def _probabilities(agent: str, given: Mapping[str, Any] | None) -> ClassProbabilities | None:
    stated = (given or {}).get("probabilities")
    if stated is None:
        return None
    try:
        sell, hold, buy = (float(value) for value in stated)
    except (TypeError, ValueError):
        raise MissingProbabilities(
            f"base_predictions.{agent}.probabilities: {stated!r} is not [P(SELL), P(HOLD), P(BUY)]"
        ) from None
    return sell, hold, buy


def _number(given: Any) -> float | None:
    """None = not known. What is no number becomes NaN, which the core reports as `feature_error`."""
    try:
        return None if given is None else float(given)
    except (TypeError, ValueError):
        return math.nan

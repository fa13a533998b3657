"""The documented result of a prediction, as people and scripts get it."""

from __future__ import annotations

from typing import Any

from meta_svc.core import Outcome
from meta_svc.ensemble import Votes


def as_dict(outcome: Outcome, votes: Votes) -> dict[str, Any]:
    """The documented result fields of a prediction, with its explanation."""
    return {
        "use_meta": outcome.use_meta,
        "action": str(outcome.action),
        "confidence": outcome.confidence,
        "reason": outcome.reason,
        "meta_confidence": outcome.meta_confidence,
        "meta_action": None if outcome.meta_action is None else str(outcome.meta_action),
        "base_ensemble_action": str(outcome.base.action),
        "base_ensemble_confidence": outcome.base.confidence,
        "consensus_strength": outcome.consensus_strength,
        "explanation": _explanation(outcome, votes),
    }


def _explanation(outcome: Outcome, votes: Votes) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "votes": {
            agent: None if vote is None else {"action": str(vote[0]), "confidence": vote[1]}
            for agent, vote in votes.items()
        },
        "inputs": None,
        "contributions": None,
        "bias": None,
    }
    if (why := outcome.explanation) is not None:
        shown["inputs"] = dict(zip(why.feature_names, why.inputs, strict=True))
        if why.contributions:
            shown["contributions"] = dict(zip(why.feature_names, why.contributions, strict=True))
            shown["bias"] = why.bias
    return shown

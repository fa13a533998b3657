"""The meta learners that can serve, and what tells them apart: inputs, threshold, rules, folder."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from meta_svc.errors import MissingProbabilities, UnknownMetaVersion
from meta_svc.inputs import (
    FEATURE_NAMES_V1,
    FEATURE_NAMES_V2,
    FEATURE_NAMES_V2P,
    build_inputs,
    build_inputs_v1,
    build_inputs_v2p,
)
from meta_svc.question import Question


@dataclass(frozen=True, slots=True)
class MetaVersion:
    """A meta learner as META_VERSION names it."""

    name: str
    folder: str
    """Of its artifacts, under the models folder."""
    feature_names: tuple[str, ...]
    build: Callable[[Question], list[float]]
    """The input vector, in the order of `feature_names`. Raises FeatureError."""
    consensus_rule: bool = True
    """Whether a strong consensus of the agents stands before the model is heard."""
    threshold: float | None = None
    """Meta confidence of an override; None = the setting's."""
    reaches: Callable[[float, float], bool] = operator.ge
    """Whether a confidence overrides at a threshold."""
    linear: bool = True
    """Whether a linear form in the manifest explains each answer exactly."""
    needs_probabilities: bool = False
    log_prefix: str = "[META-V2]"
    refusal_prefix: str = "[MetaV2]"


V2 = MetaVersion(
    name="v2",
    folder="meta",
    feature_names=FEATURE_NAMES_V2,
    build=lambda asked: build_inputs(asked.votes, asked.regime.volatility, asked.regime.trend_strength),
)
V2P = MetaVersion(
    name="v2p",
    folder="meta-v2p",
    feature_names=FEATURE_NAMES_V2P,
    build=lambda asked: build_inputs_v2p(
        asked.votes, asked.probabilities, asked.regime.volatility, asked.regime.trend_strength
    ),
    needs_probabilities=True,
)
V1 = MetaVersion(
    name="v1",
    folder="meta-v1",
    feature_names=FEATURE_NAMES_V1,
    build=lambda asked: build_inputs_v1(asked.votes),
    consensus_rule=False,
    threshold=0.60,
    reaches=operator.gt,
    linear=False,
    log_prefix="[META]",
    refusal_prefix="[MetaV1]",
)

VERSIONS: dict[str, MetaVersion] = {version.name: version for version in (V2, V2P, V1)}


def meta_version(name: str) -> MetaVersion:
    """The learner that META_VERSION names. Raises UnknownMetaVersion."""
    try:
        return VERSIONS[name]
    except KeyError:
        raise UnknownMetaVersion(f"META_VERSION={name}: use one of {', '.join(VERSIONS)}") from None


def require_probabilities(question: Question, version: MetaVersion) -> None:
    """Raise MissingProbabilities, naming the field, when the learner needs what a vote was asked without."""
    if not version.needs_probabilities:
        return
    for agent, vote in question.votes.items():
        if vote is not None and agent not in question.probabilities:
            raise MissingProbabilities(
                f"base_predictions.{agent}.probabilities is missing: {version.name} needs [P(SELL), P(HOLD), P(BUY)]"
            )

"""Metrics of the base agents."""

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from quantum_common.contracts.predictions import AbstainReason
from quantum_common.domain.signal import CLASS_ORDER

PREDICTIONS = Counter("quantum_agent_predictions_total", "Votes by action", ["agent", "action"])
ABSTENTIONS = Counter("quantum_agent_abstentions_total", "Abstentions by reason", ["agent", "reason"])
INFERENCE_SECONDS = Histogram(
    "quantum_agent_inference_seconds",
    "Wall time of one batch inference",
    ["agent"],
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
)
CONFIDENCE = Histogram(
    "quantum_agent_confidence", "Probability of the voted action", ["agent"], buckets=[i / 20 for i in range(1, 21)]
)
MODEL_INFO = Gauge("quantum_agent_model_info", "1 for the served version", ["agent", "version", "quality"])
MODEL_AGE_SECONDS = Gauge(
    "quantum_agent_model_age_seconds",
    "Market time since the last label that the served model was trained on",
    ["agent"],
)
EFFECTIVE_WEIGHT = Gauge(
    "quantum_agent_effective_weight", "1 when the agent may vote, 0 without a model or with a collapsed one", ["agent"]
)
OUTPUT_RANGE = Gauge(
    "quantum_agent_output_range_ratio",
    "Widest 5-95 % range of a class's probability over the last 200 outputs; NaN before there are as many",
    ["agent"],
)
SHADOW_PREDICTIONS = Counter(
    "quantum_agent_shadow_predictions_total",
    "Predictions of the shadow, which never vote, by action",
    ["agent", "action"],
)
SHADOW_FAILURES = Counter(
    "quantum_agent_shadow_failures_total",
    "Refused shadow models, and bars that a shadow had no answer to",
    ["agent", "reason"],
)
SHADOW_INFO = Gauge(
    "quantum_agent_shadow_info",
    "1 for the version that predicts beside the served one",
    ["agent", "version", "quality"],
)


def begin(agent: str) -> None:
    """Show every counter at 0: the first event would be no increase of a counter that was not there."""
    for action in CLASS_ORDER:
        PREDICTIONS.labels(agent, action.value)
        SHADOW_PREDICTIONS.labels(agent, action.value)
    for reason in get_args(AbstainReason):
        ABSTENTIONS.labels(agent, reason)
    CONFIDENCE.labels(agent)
    INFERENCE_SECONDS.labels(agent)

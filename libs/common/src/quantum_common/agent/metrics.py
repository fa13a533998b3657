"""Metrics of the base agents."""

from prometheus_client import Counter, Gauge, Histogram

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

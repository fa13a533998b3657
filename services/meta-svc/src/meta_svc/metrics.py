"""Metrics of meta-svc. `reason` and `outcome` are the counters of `statistics.py`, so their number is fixed."""

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from meta_svc.join import Placed
from meta_svc.statistics import COUNTERS
from quantum_common.contracts.decisions import Trigger
from quantum_common.domain.signal import Action

DECISIONS = Counter("quantum_meta_decisions_total", "Decisions made, by the rule that decided", ["reason"])
OVERRIDES = Counter(
    "quantum_meta_overrides_total", "Decisions in which the meta model overrode the base ensemble", ["reason"]
)
TRIGGERS = Counter("quantum_meta_triggers_total", "Decisions made, by what made the bar due", ["trigger"])
REPEATS = Counter("quantum_meta_repeated_inputs_total", "Second votes of an agent on a bar, without an effect")
SET_ASIDE = Counter("quantum_meta_set_aside_total", "Entries acknowledged without an effect", ["why"])
JOIN_SECONDS = Histogram(
    "quantum_meta_join_seconds",
    "From the production of the features event to the committed decision",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0),
)
HELD_BARS = Gauge("quantum_meta_held_bars", "Bars that wait for votes or for their features event", ["partition"])
MODEL_READY = Gauge("quantum_meta_model_ready", "1 when a valid model serves")
MODEL_INFO = Gauge("quantum_meta_model_info", "1 for the model that serves", ["version", "quality"])
MODEL_AGE_SECONDS = Gauge(
    "quantum_meta_model_age_seconds", "Market time since the last label that the served model has seen"
)
EFFECTIVE_WEIGHT = Gauge(
    "quantum_meta_effective_weight_ratio",
    "Mean share of the ensemble's weight that the agent had in the last 500 decisions; an abstention has none",
    ["agent"],
)
MODELS_REFUSED = Counter("quantum_meta_models_refused_total", "Models that failed validation", ["reason"])


def begin() -> None:
    """Show the counters at 0: the first event would be no increase of a counter that was not there."""
    for reason in COUNTERS:
        DECISIONS.labels(reason)
    for action in Action:
        OVERRIDES.labels(f"meta_override_{action.lower()}")
    for trigger in get_args(Trigger):
        TRIGGERS.labels(trigger)
    for placed in Placed:
        if placed is not Placed.HELD:
            SET_ASIDE.labels(placed)

"""Metrics of trainer-svc. Labels are bounded: agents, reasons and outcomes come from lists."""

from prometheus_client import Counter, Gauge

from quantum_common.domain import AGENTS
from trainer_svc.core import Reason
from trainer_svc.release_watch import Outcome, ReturnReason

OUTCOMES = ("released", "shadow", "kept", "undecided", "failed", "cancelled", "out_of_memory_budget", "crashed")
"""Of a training; anything else it says counts as `other`."""

TRAININGS = Counter("quantum_trainer_trainings_total", "Trainings that ended", ["reason", "outcome"])
RUNNING = Gauge("quantum_trainer_running", "1 while a training runs")
MEMORY = Gauge("quantum_trainer_training_memory_bytes", "Resident memory of the training that runs")
LAST_END = Gauge("quantum_trainer_last_training_timestamp_seconds", "When the newest training ended")
LAST_DURATION = Gauge("quantum_trainer_last_training_duration_seconds", "Wall time of the newest training")

LABELLED_BARS = Gauge("quantum_trainer_live_labelled_bars", "Labelled live predictions of the champion", ["agent"])
LIVE_ACCURACY = Gauge("quantum_trainer_live_accuracy", "Accuracy of the champion on them", ["agent"])
LIVE_MAJORITY = Gauge("quantum_trainer_live_accuracy_majority", "Share of their most frequent class", ["agent"])
LIVE_LOG_LOSS = Gauge("quantum_trainer_live_log_loss", "Log-loss of the champion on them", ["agent"])
LIVE_LOG_LOSS_PRIOR = Gauge("quantum_trainer_live_log_loss_prior", "Log-loss of their class shares", ["agent"])
DRIFT_DISTANCE = Gauge(
    "quantum_trainer_drift_distance", "Largest Kolmogorov-Smirnov distance; NaN: not known", ["series"]
)
DRIFT_FOUND = Gauge("quantum_trainer_drift_found", "1 while a series has drifted", ["series"])

RETURNS = Counter("quantum_trainer_returns_total", "Versions taken back by themselves", ["agent", "reason"])
CANNOT_RETURN = Gauge(
    "quantum_trainer_cannot_return", "1 while a version must go and none before it is there", ["agent"]
)
SHADOW_ENDS = Counter("quantum_trainer_shadow_ends_total", "Shadow periods that ended", ["agent", "outcome"])
ENTRIES_SKIPPED = Counter("quantum_trainer_entries_skipped_total", "Entries that are no events of the fleet")


for _agent in AGENTS:  # the first event would be no increase of a counter that was not there
    CANNOT_RETURN.labels(_agent).set(0)
    for _why in ReturnReason:
        RETURNS.labels(_agent, _why)
    for _end in Outcome:
        SHADOW_ENDS.labels(_agent, _end)
for _cause in Reason:
    for _outcome in (*OUTCOMES, "other"):
        TRAININGS.labels(_cause, _outcome)

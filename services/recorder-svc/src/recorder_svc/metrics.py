"""Metrics of the recorder. Labels are bounded: streams come from the registry."""

from prometheus_client import Counter, Gauge, Histogram

ENTRIES_RECORDED = Counter("quantum_recorder_entries_recorded_total", "Entries archived and acknowledged", ["stream"])
WRITE_SECONDS = Histogram(
    "quantum_recorder_write_seconds",
    "Time to archive a batch and commit its ledger rows",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
STORAGE_FAILURES = Counter("quantum_recorder_storage_failures_total", "Batches that disk or database did not take")
ENTRIES_TRIMMED = Counter("quantum_recorder_entries_trimmed_total", "Stream entries dropped, read by all", ["stream"])
TRIM_BLOCKED = Gauge("quantum_recorder_trim_blocked", "1 while a registered group is missing", ["stream"])

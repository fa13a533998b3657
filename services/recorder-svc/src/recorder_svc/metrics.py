"""Metrics of the recorder. Labels are bounded: streams, groups and partitions come from the registry."""

from prometheus_client import Counter, Gauge, Histogram

from quantum_common.contracts.streams import PARTITIONED, StreamSpec

ENTRIES_RECORDED = Counter("quantum_recorder_entries_recorded_total", "Entries archived and acknowledged", ["stream"])
WRITE_SECONDS = Histogram(
    "quantum_recorder_write_seconds",
    "Time to archive a batch and commit its ledger rows",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
STORAGE_FAILURES = Counter("quantum_recorder_storage_failures_total", "Batches that disk or database did not take")
ENTRIES_TRIMMED = Counter("quantum_recorder_entries_trimmed_total", "Stream entries dropped, read by all", ["stream"])
LETTERS_ARCHIVED = Counter(
    "quantum_recorder_dead_letters_archived_total", "Oldest dead letters moved to the archive", ["stream"]
)

# Partition is empty for streams of the account and for control: their tag holds the account's name, which is no label.
_STREAM = ["partition", "stream"]
_GROUP = [*_STREAM, "group"]
TRIM_BLOCKED = Gauge("quantum_recorder_trim_blocked", "1 while a registered group is missing", _STREAM)
STREAM_LENGTH = Gauge("quantum_recorder_stream_length", "Entries on a stream", _STREAM)
DEAD_LETTERS_WAITING = Gauge("quantum_recorder_dead_letters_waiting", "Dead letters of a stream", _STREAM)
GROUP_MISSING = Gauge("quantum_recorder_group_missing", "1 while a registered group does not exist", _GROUP)
GROUP_PENDING = Gauge("quantum_recorder_group_pending", "Entries given to a group and not acknowledged", _GROUP)
GROUP_LAG = Gauge("quantum_recorder_group_lag", "Entries not given to a group yet; NaN: not known", _GROUP)
GROUP_LAG_UNKNOWN = Gauge("quantum_recorder_group_lag_unknown", "1 while the server cannot tell the lag", _GROUP)
GROUP_UNDELIVERED_AGE = Gauge(
    "quantum_recorder_group_undelivered_age_seconds", "Age of the oldest entry not given to a group; 0: none", _GROUP
)
GROUP_LAST_DELIVERY_AGE = Gauge(
    "quantum_recorder_group_last_delivery_age_seconds", "Time since a group was given an entry; NaN: never", _GROUP
)
ALARMS = Gauge("quantum_recorder_alarms", "Alarms that are on", ["kind"])
WATCHED_AT = Gauge("quantum_recorder_watched_timestamp_seconds", "When the streams were last looked at")


def stream_labels(spec: StreamSpec, stream: str) -> tuple[str, str]:
    """Partition and stream."""
    return (stream.partition(":")[0].strip("{}") if spec in PARTITIONED else "", spec.name)

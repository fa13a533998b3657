"""Metrics of the recorder. Labels are bounded: streams, groups and partitions come from the registry."""

import math

from prometheus_client import Counter, Gauge, Histogram

from quantum_common.contracts.streams import PARTITIONED, REGISTRY, StreamSpec
from recorder_svc.streams import DISK_LIMIT, MEMORY_LIMIT, Kind, Storage

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
STORAGE_USED = Gauge(
    "quantum_recorder_storage_used_ratio",
    "Share in use of the server's maxmemory and of the state folder's disk; NaN: no limit, or not told",
    ["store"],
)
STORAGE_LIMIT = Gauge("quantum_recorder_storage_limit_ratio", "Share above which it is an alarm", ["store"])
WATCHED_AT = Gauge("quantum_recorder_watched_timestamp_seconds", "When the streams were last looked at")


def stream_labels(spec: StreamSpec, stream: str) -> tuple[str, str]:
    """Partition and stream."""
    return (stream.partition(":")[0].strip("{}") if spec in PARTITIONED else "", spec.name)


def show_storage(storage: Storage) -> None:
    for store, used in (("memory", storage.memory), ("disk", storage.disk)):
        STORAGE_USED.labels(store).set(math.nan if used is None else used)


# The first event would be no increase of a counter that was not there.
for _spec in REGISTRY:
    for _counter in (ENTRIES_TRIMMED, LETTERS_ARCHIVED, *([ENTRIES_RECORDED] if _spec.consumers else [])):
        _counter.labels(_spec.name)
for _kind in Kind:
    ALARMS.labels(_kind).set(0)
for _store, _limit in (("memory", MEMORY_LIMIT), ("disk", DISK_LIMIT)):
    STORAGE_LIMIT.labels(_store).set(_limit)

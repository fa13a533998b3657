"""Metrics of the bus kit. Labels are bounded: streams by their names in the registry, without partition or account."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from quantum_common.bus.port import Status

ENTRIES_READ = Counter("quantum_bus_entries_read_total", "Stream entries read", ["group"])
DEAD_LETTERS = Counter("quantum_bus_dead_letters_total", "Entries moved to a dead-letter stream", ["stream", "group"])
BATCH_FAILURES = Counter("quantum_bus_batch_failures_total", "Batches whose handler failed", ["group"])
LEASE_HELD = Gauge("quantum_bus_lease_held", "1 while this instance does the work of a lease", ["partition"])
LEASES_TAKEN = Counter("quantum_bus_leases_taken_total", "Leases this instance took over", ["partition"])
COMMITS_REFUSED = Counter("quantum_bus_commits_refused_total", "Units that the commit refused", ["group", "status"])

REFUSALS = tuple(status for status in Status if status is not Status.OK)


def begin_group(group: str, streams: Iterable[str]) -> None:
    """Show the counters of a group at 0: the first event would be no increase of a counter that was not there."""
    ENTRIES_READ.labels(group)
    BATCH_FAILURES.labels(group)
    for stream in streams:
        DEAD_LETTERS.labels(name_of(stream), group)
    for status in REFUSALS:
        COMMITS_REFUSED.labels(group, status)


def name_of(stream: str) -> str:
    """`features` of `{p00}:features`: what stands in braces may be the account."""
    return stream.rpartition("}:")[2]


def partition_of(lease: str) -> str:
    """`p00`, or nothing for the lease of an account, whose name is no label."""
    tag = lease.partition("}")[0].lstrip("{")
    return tag if tag[:1] == "p" and tag[1:].isdigit() else ""

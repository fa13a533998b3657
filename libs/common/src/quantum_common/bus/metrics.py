"""Metrics of the bus kit. Labels are bounded: groups and streams come from the registry."""

from prometheus_client import Counter, Gauge

ENTRIES_READ = Counter("quantum_bus_entries_read_total", "Stream entries read", ["group"])
DEAD_LETTERS = Counter("quantum_bus_dead_letters_total", "Entries moved to a dead-letter stream", ["stream", "group"])
BATCH_FAILURES = Counter("quantum_bus_batch_failures_total", "Batches whose handler failed", ["group"])
LEASE_HELD = Gauge("quantum_bus_lease_held", "1 while this instance does the work of a lease", ["lease"])
LEASES_TAKEN = Counter("quantum_bus_leases_taken_total", "Leases this instance took over", ["lease"])
COMMITS_REFUSED = Counter("quantum_bus_commits_refused_total", "Units that the commit refused", ["group", "status"])

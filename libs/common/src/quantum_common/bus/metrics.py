"""Metrics of the bus kit. Labels are bounded: groups and streams come from the registry."""

from prometheus_client import Counter

ENTRIES_READ = Counter("quantum_bus_entries_read_total", "Stream entries read", ["group"])
DEAD_LETTERS = Counter("quantum_bus_dead_letters_total", "Entries moved to a dead-letter stream", ["stream", "group"])
BATCH_FAILURES = Counter("quantum_bus_batch_failures_total", "Batches whose handler failed", ["group"])

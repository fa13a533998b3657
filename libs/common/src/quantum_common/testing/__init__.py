"""What tests of every package share: waiting, a real server or cluster, builders of events."""

from quantum_common.testing.cluster import RunningCluster, running_cluster
from quantum_common.testing.eventually import eventually, wait_until
from quantum_common.testing.server import free_port, running_server

__all__ = ["RunningCluster", "eventually", "free_port", "running_cluster", "running_server", "wait_until"]

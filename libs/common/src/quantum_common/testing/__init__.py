"""What tests of every package share: waiting, a real server, builders of events."""

from quantum_common.testing.eventually import eventually
from quantum_common.testing.server import free_port, running_server

__all__ = ["eventually", "free_port", "running_server"]

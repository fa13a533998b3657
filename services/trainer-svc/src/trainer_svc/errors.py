"""Errors of trainer-svc."""

from quantum_common import QuantumError


class TrainerError(QuantumError):
    """Root of every error this package raises on purpose."""


class StateDamaged(TrainerError):
    """A state file that cannot be read; the message names it and the fix."""


class AlreadyRunning(TrainerError):
    """A training runs: there is one at a time."""

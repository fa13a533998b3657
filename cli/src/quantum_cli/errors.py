"""Errors that end a command with a message instead of a traceback."""

from quantum_common import QuantumError


class UsageError(QuantumError):
    """Wrong options or a state folder that does not fit them: exit code 2."""


class RunFailed(QuantumError):
    """The run could not go on: exit code 1."""

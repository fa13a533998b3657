"""Errors of the risk service."""

from quantum_common import QuantumError


class RiskError(QuantumError):
    """Root of every error this package raises on purpose."""


class InvalidRiskConfig(RiskError, ValueError):
    """A limit is outside the range in which it means something; the message names it."""


class InvalidExecution(RiskError):
    """An executions event whose numbers cannot be true; it changes nothing and goes to the dead letter."""

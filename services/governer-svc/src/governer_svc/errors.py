"""Errors of the risk service."""

from quantum_common import QuantumError
from quantum_common.bus import BusUnavailable


class RiskError(QuantumError):
    """Root of every error this package raises on purpose."""


class InvalidRiskConfig(RiskError, ValueError):
    """A limit is outside the range in which it means something; the message names it."""


class InvalidExecution(RiskError):
    """An executions event whose numbers cannot be true; it changes nothing and goes to the dead letter."""


class NotOurBar(RiskError):
    """A decision or features event whose bar cannot be one of ours; it alone goes to the dead letter."""


class StateUnreadable(RiskError, BusUnavailable):
    """The stored risk state, or the limits changed at run time in it, cannot be used.

    It counts as an unavailable bus: no entry is to blame, so the kit condemns none.
    """


class Contended(RiskError, BusUnavailable):
    """Somebody else kept changing the state; the change was not made. No entry is to blame for that either."""

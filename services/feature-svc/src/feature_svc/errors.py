"""What can go wrong on purpose."""

from quantum_common import QuantumError


class FeatureError(QuantumError):
    """Root of this package's errors."""


class VenueUnavailable(FeatureError):
    """The venue did not answer, or refused for now; the same request may be made again."""


class UnknownSymbol(FeatureError):
    """The venue has no market of this name."""

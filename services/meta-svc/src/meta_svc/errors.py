"""Errors this package raises on purpose."""

from quantum_common import QuantumError


class MetaError(QuantumError):
    """Root of every error of the meta layer."""


class FeatureError(MetaError):
    """The input vector cannot be built from these votes and this regime; the message names the input."""


class MissingProbabilities(MetaError):
    """A vote without the probabilities that the meta learner needs; the message names the field."""


class UnknownMetaVersion(MetaError):
    """META_VERSION names no meta learner of ours."""


class UnknownMetaSetting(MetaError):
    """A META_ variable that this service does not declare."""

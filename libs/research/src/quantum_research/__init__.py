"""What learns and judges: dataset, labels, purged splits, calibration, export and training of every model."""

from quantum_common import QuantumError


class ResearchError(QuantumError):
    """Root of what training refuses to do."""


class TooLittleData(ResearchError):
    """A part of the data is empty, or has no bar of one of the three classes."""


class ExportRefused(ResearchError):
    """The exported graph does not say what the trained model says, or is constant or not finite."""

"""Errors of the recorder."""

from quantum_common import QuantumError
from quantum_common.bus import BusUnavailable


class RecorderError(QuantumError):
    """Root of every error this package raises on purpose."""


class StorageUnavailable(RecorderError, BusUnavailable):
    """The disk or the database does not take the batch now.

    It counts as an unavailable bus, so that the kit waits and delivers the batch again instead of condemning its
    entries to the dead letter.
    """

    @property
    def reason(self) -> str:
        return f"storage unavailable: {self}"

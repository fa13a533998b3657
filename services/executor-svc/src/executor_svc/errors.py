"""What can go wrong here; one root."""

from quantum_common import QuantumError


class ExecutorError(QuantumError):
    """Root of the executor's errors."""


class RefusesToTrade(ExecutorError):
    """The account or the settings are not what trading needs; the process does not start."""


class VenueUnreachable(ExecutorError):
    """The venue did not answer, or answered that it cannot; nothing is known about the request."""


class VenueRefused(ExecutorError):
    """The venue said no: the request had no effect."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class StandsBy(ExecutorError):
    """Another instance works for the account."""


class Superseded(ExecutorError):
    """A commit was refused: the book has to be read again. `lost`: the input is someone else's now."""

    def __init__(self, message: str, *, lost: bool) -> None:
        super().__init__(message)
        self.lost = lost

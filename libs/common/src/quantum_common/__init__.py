"""What trades: contracts, the bus kit, the service kit, features and model artifacts."""

__version__ = "0.1.0"


class QuantumError(Exception):
    """Root of every error this package raises on purpose."""

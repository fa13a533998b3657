"""Binance-compatible paper venue: a replay of candles, an order book around them, one account."""

from quantum_common import QuantumError


class SimError(QuantumError):
    """Root of the paper venue's own errors (bad settings, unusable data or database)."""

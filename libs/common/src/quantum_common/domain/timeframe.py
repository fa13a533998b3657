"""Timeframes and the label threshold each of them defaults to."""

from quantum_common import QuantumError

TIMEFRAME_MS: dict[str, int] = {
    "1m": 60_000,
    "5m": 300_000,
    "15m": 900_000,
    "1h": 3_600_000,
    "4h": 14_400_000,
    "1d": 86_400_000,
}

DEFAULT_LABEL_THRESHOLD: dict[str, float] = {
    "1m": 0.001,
    "5m": 0.002,
    "15m": 0.004,
    "1h": 0.015,
    "4h": 0.03,
    "1d": 0.07,
}
"""Return of close over the label horizon (fraction) above which a bar is BUY, below whose negative it is SELL."""

DEFAULT_HORIZON_BARS = 5


class UnknownTimeframe(QuantumError):
    """The timeframe is none of 1m, 5m, 15m, 1h, 4h, 1d."""


def timeframe_ms(timeframe: str) -> int:
    """Length of a bar in milliseconds."""
    try:
        return TIMEFRAME_MS[timeframe]
    except KeyError:
        raise UnknownTimeframe(f"timeframe {timeframe!r}: use one of {', '.join(TIMEFRAME_MS)}") from None


def decision_ts_ms(bar_ts_ms: int, timeframe: str) -> int:
    """Time at which the bar that opened at `bar_ts_ms` is closed and may be decided on."""
    return bar_ts_ms + timeframe_ms(timeframe)

"""What feature-svc says of one symbol and closed bar."""

import msgspec


class Candle(msgspec.Struct, frozen=True):
    """Closed OHLCV bar; prices in quote currency, volume in base asset."""

    open: float
    high: float
    low: float
    close: float
    volume: float


class FeaturesComputed(msgspec.Struct, frozen=True):
    """The 18 raw features of a bar (bars closing ≤ t), its regime, and how many symbols closed with it."""

    candle: Candle
    values: tuple[float, ...]
    """18 raw features in the order of `quantum_common.features.FEATURE_NAMES`."""
    volatility: float
    """Percentile rank in [0, 1]."""
    trend_strength: float
    """Signed efficiency ratio in [-1, 1]."""
    feature_hash: str
    gap_bars: int
    """Bars missing right before this one that the recursions stepped over."""
    live_symbols: int
    """Symbols published for this bar time: the governer allocates when so many decisions are in."""

"""The market: candles of every symbol, walked as a price path. Float prices, UTC milliseconds.

Inside a bar the price goes O→L→H→C when it closes at or above its open, else O→H→L→C: a quarter of the bar per leg,
the last quarter rests at the close until the next bar opens. In a gap the last close stands.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exchange_sim import SimError
from quantum_common.candles import Candles

Point = tuple[float, float]
"""Time in UTC ms and price."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where the path reaches a level: exact time, the millisecond it is known, and the price there."""

    at: float
    ts_ms: int
    price: float


class SymbolMarket:
    """One symbol's bars and path."""

    def __init__(self, symbol: str, candles: Candles, timeframe_ms: int) -> None:
        if not len(candles):
            raise SimError(f"{symbol}: the candle file has no bars")
        if np.any(np.diff(candles.ts) <= 0):
            raise SimError(f"{symbol}: bars are not in ascending order without duplicates")
        self.symbol = symbol
        self.candles = candles
        self.timeframe_ms = timeframe_ms
        self.first_ms = int(candles.ts[0])
        self.last_ms = int(candles.ts[-1])

    def newest(self, now_ms: int) -> int:
        """Position of the newest bar that has opened by `now_ms`; -1 before the first."""
        return int(np.searchsorted(self.candles.ts, now_ms, side="right")) - 1

    def path(self, index: int) -> list[Point]:
        """Way-points of a bar, the last just before its close."""
        bars, start, quarter = self.candles, int(self.candles.ts[index]), self.timeframe_ms / 4
        open_, close = float(bars.open[index]), float(bars.close[index])
        low, high = float(bars.low[index]), float(bars.high[index])
        first, second = (low, high) if close >= open_ else (high, low)
        return [
            (start, open_),
            (start + quarter, first),
            (start + 2 * quarter, second),
            (start + 3 * quarter, close),
            (start + self.timeframe_ms - 1, close),
        ]

    def price_at(self, now_ms: int) -> float:
        """Last price at `now_ms`; a bar's open before the first bar."""
        index = self.newest(now_ms)
        if index < 0:
            return float(self.candles.open[0])
        return _price_on(self.path(index), now_ms)

    def open_bar(self, now_ms: int) -> tuple[int, float, float, float, float, float] | None:
        """The bar in progress as far as it is known: ts, open, high, low, close, volume; None when there is none."""
        index = self.newest(now_ms)
        if index < 0 or now_ms >= int(self.candles.ts[index]) + self.timeframe_ms:
            return None
        points = self.path(index)
        start, open_ = int(points[0][0]), points[0][1]
        price = _price_on(points, now_ms)
        seen = [p for t, p in points if t <= now_ms] + [price]
        volume = float(self.candles.volume[index]) * (now_ms - start) / self.timeframe_ms
        return start, open_, max(seen), min(seen), price, volume

    def crossing(self, start_ms: int, end_ms: int, level: float, *, rising: bool) -> Crossing | None:
        """First point of the path in [start, end] at or beyond `level`: at or above when `rising`, else at or below.

        Over a gap the price is the bar's open, not the level.
        """
        here = self.price_at(start_ms)
        if _beyond(here, level, rising):
            return Crossing(start_ms, start_ms, here)
        lowest = max(self.newest(start_ms), 0)
        extremes = self.candles.high if rising else self.candles.low
        window = extremes[lowest : self.newest(end_ms) + 1]
        hits = np.flatnonzero(window >= level) if rising else np.flatnonzero(window <= level)
        for offset in hits[:2]:  # the bar in progress may have been beyond the level before `start_ms`
            found = self._crossing_in_bar(lowest + int(offset), start_ms, level, rising)
            if found is not None:
                return found if found.ts_ms <= end_ms else None
        return None

    def _crossing_in_bar(self, index: int, start_ms: int, level: float, rising: bool) -> Crossing | None:
        points = self.path(index)
        if points[0][0] > start_ms and _beyond(points[0][1], level, rising):
            return Crossing(points[0][0], int(points[0][0]), points[0][1])
        for (t0, p0), (t1, p1) in itertools.pairwise(points):
            if t1 <= start_ms or not _beyond(p1, level, rising):
                continue
            at = max(t0 + (t1 - t0) * (level - p0) / (p1 - p0), start_ms) if p1 != p0 else t1
            return Crossing(at, math.ceil(at), level)
        return None


@dataclass(frozen=True)
class Market:
    """All symbols of the venue at one timeframe."""

    symbols: Mapping[str, SymbolMarket]
    timeframe: str
    timeframe_ms: int

    @property
    def first_ms(self) -> int:
        return min(symbol.first_ms for symbol in self.symbols.values())

    @property
    def last_ms(self) -> int:
        return max(symbol.last_ms for symbol in self.symbols.values())

    @property
    def common_start_ms(self) -> int:
        """First moment at which every symbol has opened a bar."""
        return max(symbol.first_ms for symbol in self.symbols.values())


def _beyond(price: float, level: float, rising: bool) -> bool:
    return price >= level if rising else price <= level


def _price_on(points: Sequence[Point], now_ms: int) -> float:
    for (t0, p0), (t1, p1) in itertools.pairwise(points):
        if now_ms < t1:
            return p0 + (p1 - p0) * (now_ms - t0) / (t1 - t0) if now_ms > t0 else p0
    return points[-1][1]

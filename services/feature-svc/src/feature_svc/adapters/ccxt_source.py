"""Candles from a venue through ccxt."""

from __future__ import annotations

from typing import Any

import ccxt.async_support as ccxt

from feature_svc.errors import UnknownSymbol, VenueUnavailable
from feature_svc.settings import Settings
from feature_svc.source import Row
from quantum_common.domain.venue import at_base_url


def make_exchange(settings: Settings) -> Any:
    """A public ccxt client that sends where the settings say. Unlimited only towards an address of our own."""
    exchange = getattr(ccxt, settings.exchange)(
        {
            "timeout": settings.venue_timeout_ms,
            "enableRateLimit": settings.venue_url is None,
            "options": {"fetchCurrencies": False},
        }
    )
    if settings.venue_url is not None:
        exchange.urls["api"] = at_base_url(exchange.urls["api"], settings.venue_url)
    return exchange


class CcxtSource:
    """See CandleSource. Symbols are the venue's own names (BTCUSDT)."""

    def __init__(self, exchange: Any, timeframe: str) -> None:
        self._exchange = exchange
        self._timeframe = timeframe

    async def candles(self, symbol: str, since_ms: int, limit: int) -> list[Row]:
        try:
            await self._exchange.load_markets()
            found = self._exchange.markets_by_id.get(symbol)
            if not found:
                raise UnknownSymbol(f"{self._exchange.id} has no market {symbol}: check QT_SYMBOLS")
            rows: list[Row] = await self._exchange.fetch_ohlcv(found[0]["symbol"], self._timeframe, since_ms, limit)
        except ccxt.BaseError as error:
            raise VenueUnavailable(f"{symbol}: {type(error).__name__}: {error}") from error
        return rows

    async def close(self) -> None:
        await self._exchange.close()

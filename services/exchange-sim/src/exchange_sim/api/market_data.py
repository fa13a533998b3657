"""Public market data: exchange information, candles, book, tickers. All of it as of the market clock."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from exchange_sim import book
from exchange_sim.errors import VenueError
from exchange_sim.market import SymbolMarket
from exchange_sim.replay import FUNDING_INTERVAL_MS
from exchange_sim.requests import Params, integer
from exchange_sim.rules import MAX_ALGO_ORDERS, PERCENT_DOWN, PERCENT_UP, SymbolRules
from exchange_sim.venue import Venue

MAX_KLINES = 1_500
DAY_MS = 86_400_000
PERPETUAL_DELIVERY_MS = 4_133_404_800_000
RATE_LIMITS = [
    {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 2400},
    {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": 1200},
    {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 300},
]


def exchange_info(venue: Venue, params: Params) -> dict[str, Any]:
    return {
        "timezone": "UTC",
        "futuresType": "U_MARGINED",
        "rateLimits": RATE_LIMITS,
        "exchangeFilters": [],
        "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}],
        "symbols": [
            _symbol(rules, venue.world.market.symbols[rules.symbol].first_ms) for rules in venue.world.rules.values()
        ],
    }


def klines(venue: Venue, params: Params) -> bytes:
    """Bars of the market clock, the one in progress last and only as far as it has gone.

    Prices are written so that they read back as the very floats of the candle file.
    """
    market = venue.world.market
    rules = venue.rules(params.get("symbol"))
    if params.get("interval") != market.timeframe:
        raise VenueError(-1120)
    limit = min(integer(params, "limit", 500) or 500, MAX_KLINES)
    start_ms, end_ms = integer(params, "startTime"), integer(params, "endTime")
    rows = _rows(market.symbols[rules.symbol], venue.state.now_ms, limit, start_ms, end_ms)
    return ("[" + ",".join(rows) + "]").encode()


def _rows(symbol: SymbolMarket, now_ms: int, limit: int, start_ms: int | None, end_ms: int | None) -> list[str]:
    bars, step = symbol.candles, symbol.timeframe_ms
    stop = symbol.newest(now_ms) + 1
    in_progress = stop > 0 and int(bars.ts[stop - 1]) + step > now_ms
    last = stop
    if end_ms is not None:
        last = min(stop, int(np.searchsorted(bars.ts, end_ms, side="right")))
    first = 0 if start_ms is None else int(np.searchsorted(bars.ts, start_ms))
    if start_ms is None:
        first = max(first, last - limit)
    else:
        last = min(last, first + limit)
    rows = list(_closed_rows(symbol, first, min(last, stop - in_progress)))
    if in_progress and first < stop <= last:
        partial = symbol.open_bar(now_ms)
        if partial is not None:
            rows.append(_row(*partial, step))
    return rows


def _closed_rows(symbol: SymbolMarket, first: int, last: int) -> Iterator[str]:
    bars = symbol.candles.slice(first, max(last, first))
    columns = [c.tolist() for c in (bars.ts, bars.open, bars.high, bars.low, bars.close, bars.volume)]
    for ts, open_, high, low, close, volume in zip(*columns, strict=True):
        yield _row(ts, open_, high, low, close, volume, symbol.timeframe_ms)


def _row(ts: int, open_: float, high: float, low: float, close: float, volume: float, step: int) -> str:
    return (
        f'[{ts},"{open_!r}","{high!r}","{low!r}","{close!r}","{volume!r}",{ts + step - 1},'
        f'"{volume * close!r}",0,"0","0","0"]'
    )


def depth(venue: Venue, params: Params) -> dict[str, Any]:
    rules = venue.rules(params.get("symbol"))
    limit = min(integer(params, "limit", 500) or 500, 1_000)
    mid, shape, now_ms = venue.mark(rules.symbol), venue.world.terms.book, venue.state.now_ms
    side = {
        name: [[text(price, rules), f"{quantity:f}"] for price, quantity in islice(found, limit)]
        for name, found in (
            ("bids", book.levels(shape, rules, mid, "SELL")),
            ("asks", book.levels(shape, rules, mid, "BUY")),
        )
    }
    return {"lastUpdateId": now_ms, "E": now_ms, "T": now_ms, **side}


def book_ticker(venue: Venue, params: Params) -> Any:
    return _each(venue, params, _book_ticker)


def price_ticker(venue: Venue, params: Params) -> Any:
    return _each(
        venue,
        params,
        lambda venue, rules: {
            "symbol": rules.symbol,
            "price": text(venue.mark(rules.symbol), rules),
            "time": venue.state.now_ms,
        },
    )


def premium_index(venue: Venue, params: Params) -> Any:
    return _each(venue, params, _premium_index)


def day_ticker(venue: Venue, params: Params) -> Any:
    return _each(venue, params, _day_ticker)


def _each(venue: Venue, params: Params, view: Any) -> Any:
    if params.get("symbol"):
        return view(venue, venue.rules(params["symbol"]))
    return [view(venue, rules) for rules in venue.world.rules.values()]


def _book_ticker(venue: Venue, rules: SymbolRules) -> dict[str, Any]:
    mid, shape = venue.mark(rules.symbol), venue.world.terms.book
    bid, bid_quantity = book.best(shape, rules, mid, "SELL")
    ask, ask_quantity = book.best(shape, rules, mid, "BUY")
    return {
        "symbol": rules.symbol,
        "bidPrice": text(bid, rules),
        "bidQty": f"{bid_quantity:f}",
        "askPrice": text(ask, rules),
        "askQty": f"{ask_quantity:f}",
        "time": venue.state.now_ms,
        "lastUpdateId": venue.state.now_ms,
    }


def _premium_index(venue: Venue, rules: SymbolRules) -> dict[str, Any]:
    price, now_ms = text(venue.mark(rules.symbol), rules), venue.state.now_ms
    next_ms = (now_ms // FUNDING_INTERVAL_MS + 1) * FUNDING_INTERVAL_MS
    return {
        "symbol": rules.symbol,
        "markPrice": price,
        "indexPrice": price,
        "estimatedSettlePrice": price,
        "lastFundingRate": f"{venue.world.rate(rules.symbol, next_ms - FUNDING_INTERVAL_MS):f}",
        "interestRate": "0.00010000",
        "nextFundingTime": next_ms,
        "time": now_ms,
    }


def _day_ticker(venue: Venue, rules: SymbolRules) -> dict[str, Any]:
    symbol, now_ms = venue.world.market.symbols[rules.symbol], venue.state.now_ms
    last = symbol.price_at(now_ms)
    current = symbol.open_bar(now_ms)
    stop = symbol.newest(now_ms) + (current is None)
    first = int(np.searchsorted(symbol.candles.ts, now_ms - DAY_MS))
    day = symbol.candles.slice(first, max(stop, first))
    opened = float(day.open[0]) if len(day) else last
    volume = float(day.volume.sum()) + (current[5] if current else 0.0)
    quote = float((day.volume * day.close).sum()) + (current[5] * last if current else 0.0)
    highs = [*day.high.tolist(), last] + ([current[2]] if current else [])
    lows = [*day.low.tolist(), last] + ([current[3]] if current else [])
    return {
        "symbol": rules.symbol,
        "priceChange": repr(last - opened),
        "priceChangePercent": f"{(last / opened - 1) * 100:.3f}",
        "weightedAvgPrice": repr(quote / volume if volume else last),
        "lastPrice": text(venue.mark(rules.symbol), rules),
        "lastQty": "0",
        "openPrice": repr(opened),
        "highPrice": repr(max(highs)),
        "lowPrice": repr(min(lows)),
        "volume": repr(volume),
        "quoteVolume": repr(quote),
        "openTime": now_ms - DAY_MS,
        "closeTime": now_ms,
        "firstId": 0,
        "lastId": 0,
        "count": 0,
    }


def text(price: Any, rules: SymbolRules) -> str:
    """A price with the decimals of the symbol's tick."""
    return f"{price.quantize(rules.tick):f}"


def _symbol(rules: SymbolRules, onboard_ms: int) -> dict[str, Any]:
    price_filter = {"minPrice": rules.min_price, "maxPrice": rules.max_price, "tickSize": rules.tick}
    lot = {"stepSize": rules.step, "minQty": rules.step}
    percent = {"multiplierUp": PERCENT_UP, "multiplierDown": PERCENT_DOWN, "multiplierDecimal": "4"}
    return {
        "symbol": rules.symbol,
        "pair": rules.symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": PERPETUAL_DELIVERY_MS,
        "onboardDate": onboard_ms,
        "status": "TRADING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": rules.base,
        "quoteAsset": rules.quote,
        "marginAsset": rules.quote,
        "pricePrecision": _places(rules.tick),
        "quantityPrecision": _places(rules.step),
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "filters": [
            {"filterType": "PRICE_FILTER", **price_filter},
            {"filterType": "LOT_SIZE", **lot, "maxQty": rules.max_quantity},
            {"filterType": "MARKET_LOT_SIZE", **lot, "maxQty": rules.max_market_quantity},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": MAX_ALGO_ORDERS},
            {"filterType": "MIN_NOTIONAL", "notional": rules.min_notional},
            {"filterType": "PERCENT_PRICE", **percent},
        ],
        "orderTypes": ["LIMIT", "MARKET", "STOP_MARKET", "TAKE_PROFIT_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def _places(step: Any) -> int:
    return int(-step.as_tuple().exponent)

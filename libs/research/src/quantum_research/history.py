"""Candle history from a venue through ccxt: page by page into a Parquet file that a later download continues.

ccxt's own `paginate` is not used: it asks for all pages at once, at most ten unless told, and keeps nothing when one
of them fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ccxt
import numpy as np

from quantum_common.candles import COLUMNS, Candles, candle_path, read_candles, write_candles
from quantum_common.domain import timeframe_ms
from quantum_common.domain.venue import at_base_url
from quantum_common.features.hygiene import Bar, sift
from quantum_research import ResearchError

DEFAULT_DAYS = {"1m": 60, "5m": 180, "15m": 365, "1h": 730, "4h": 1460, "1d": 2920}
"""How far back the first download of a timeframe goes: finer bars, shorter past, more of them."""
PAGE_BARS = 500
"""Where ccxt does not know the venue's own limit."""
PAGES_PER_SAVE = 20
"""What a SIGKILL can lose; anything milder loses nothing."""
TIMEOUT_MS = 10_000
RETRIES = 4
RETRY_DELAY_MS = 2_000
DAY_MS = 86_400_000

Share = Callable[[float], None]
"""Called with the share of the range that is stored, 0..1."""


class HistoryError(ResearchError):
    """The venue, symbol or timeframe is unknown, or the venue does not answer."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a symbol's file holds now. Gaps are [first missing bar, next bar there is), UTC ms."""

    bars: int
    new_bars: int
    refused_bars: int
    """Sent by the venue, but not sane; they are missing as well."""
    gaps: tuple[tuple[int, int], ...]


def make_exchange(venue: str, url: str | None = None) -> Any:
    """A public ccxt client that paces itself and retries what failed on the way. `url` replaces scheme and host."""
    if venue not in ccxt.exchanges:
        raise HistoryError(f"venue {venue!r} is none that ccxt knows: give its id, such as binance or binanceusdm")
    options = {
        "fetchCurrencies": False,  # asks for a key
        "maxRetriesOnFailure": RETRIES,
        "maxRetriesOnFailureDelay": RETRY_DELAY_MS,
    }
    exchange = getattr(ccxt, venue)({"timeout": TIMEOUT_MS, "enableRateLimit": True, "options": options})
    if url is not None:
        exchange.urls["api"] = at_base_url(exchange.urls["api"], url)
    return exchange


def download(
    exchange: Any,
    data_dir: Path,
    symbol: str,
    timeframe: str,
    *,
    from_ms: int | None,
    to_ms: int,
    progress: Share = lambda _: None,
) -> Downloaded:
    """Complete `<venue>_<SYMBOL>_<timeframe>.parquet` with the bars that open from `from_ms` on and close by `to_ms`.

    Goes on after the newest stored bar, and first fills in what is older than the oldest. Without `from_ms`: from the
    oldest stored bar, or DEFAULT_DAYS back. What has arrived is stored also when it fails. Raises HistoryError.
    """
    bar_ms = timeframe_ms(timeframe)
    market = _market(exchange, symbol, timeframe)
    file = _File(data_dir, exchange.id, symbol, timeframe)
    before = len(file.bars)
    if from_ms is None:
        from_ms = file.bars[0].ts if file.bars else to_ms - DEFAULT_DAYS[timeframe] * DAY_MS
    from_ms = -(-from_ms // bar_ms) * bar_ms
    refused = _fill_in_older(exchange, market, file, from_ms)
    start = file.bars[-1].ts + bar_ms if file.bars else from_ms
    with file.kept():
        for page in _pages(exchange, market, timeframe, start, to_ms):
            file.add(page.bars)
            refused += page.refused_bars
            progress(min(1.0, (page.next_ms - start) / (to_ms - start)))
    return Downloaded(len(file.bars), len(file.bars) - before, refused, gaps(file.bars, bar_ms))


class _File:
    """The symbol's candle file with what has arrived since it was written."""

    def __init__(self, data_dir: Path, venue: str, symbol: str, timeframe: str) -> None:
        self._where = (data_dir, venue, symbol, timeframe)
        self._unsaved_pages = 0
        self.timeframe = timeframe
        self.bars: list[Bar] = []
        if candle_path(*self._where).is_file():
            table = read_candles(*self._where)
            self.bars = [Bar(*row) for row in zip(*(getattr(table, name).tolist() for name in COLUMNS), strict=True)]

    def put_before(self, bars: Sequence[Bar]) -> None:
        self.bars[:0] = bars
        self._save()

    def add(self, bars: Sequence[Bar]) -> None:
        self.bars += bars
        self._unsaved_pages += 1
        if self._unsaved_pages == PAGES_PER_SAVE:
            self._save()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever ends the block, what was added in it is stored."""
        try:
            yield
        finally:
            self._save()

    def _save(self) -> None:
        self._unsaved_pages = 0
        if self.bars:
            ts = np.array([bar.ts for bar in self.bars], np.int64)
            prices = np.array([bar[1:] for bar in self.bars], np.float64)
            write_candles(*self._where, Candles(ts, *prices.T.copy()))


class _Page(NamedTuple):
    next_ms: int
    """Where the next page starts."""
    bars: tuple[Bar, ...]
    refused_bars: int


def _fill_in_older(exchange: Any, market: str, file: _File, from_ms: int) -> int:
    """All or nothing: a part of it would leave a gap that no later download looks for. Gives the refused bars."""
    if not file.bars or from_ms >= file.bars[0].ts:
        return 0
    pages = list(_pages(exchange, market, file.timeframe, from_ms, file.bars[0].ts))
    file.put_before([bar for page in pages for bar in page.bars])
    return sum(page.refused_bars for page in pages)


def _pages(exchange: Any, market: str, timeframe: str, since_ms: int, to_ms: int) -> Iterator[_Page]:
    """The sane bars that open from `since_ms` on and are closed by `to_ms`."""
    bar_ms = timeframe_ms(timeframe)
    limit = int(exchange.feature_value(market, "fetchOHLCV", "limit", PAGE_BARS) or PAGE_BARS)
    while since_ms + bar_ms <= to_ms:
        rows = [row for row in _page(exchange, market, timeframe, since_ms, limit) if row[0] >= since_ms]
        sifted = sift(rows, bar_ms=bar_ms, last_ts=since_ms - bar_ms, now_ms=to_ms)
        # A venue that answers with a window of time has nothing in it: look into the next one.
        newest = max((int(row[0]) for row in rows), default=since_ms + (limit - 1) * bar_ms)
        since_ms = newest - newest % bar_ms + bar_ms
        yield _Page(since_ms, sifted.bars, len(sifted.refused))


def _page(exchange: Any, market: str, timeframe: str, since_ms: int, limit: int) -> list[Sequence[float]]:
    try:
        rows: list[Sequence[float]] = exchange.fetch_ohlcv(market, timeframe, since_ms, limit)
    except ccxt.BaseError as error:
        raise _failure(exchange, error) from error
    return rows


def _market(exchange: Any, symbol: str, timeframe: str) -> str:
    """ccxt's name for the venue's own (BTCUSDT); a venue of several kinds of market trades its default kind."""
    if timeframe not in (exchange.timeframes or {}):
        raise HistoryError(
            f"{exchange.id} has no candles of {timeframe}; it has {', '.join(exchange.timeframes or {})}"
        )
    try:
        exchange.load_markets()
    except ccxt.BaseError as error:
        raise _failure(exchange, error) from error
    found = exchange.markets_by_id.get(symbol, [])
    kind = exchange.options.get("defaultType", "spot")
    for market in sorted(found, key=lambda market: market["type"] != kind):
        return str(market["symbol"])
    raise HistoryError(f"{exchange.id} has no market {symbol}: check --symbols and --venue")


def _failure(exchange: Any, error: ccxt.BaseError) -> HistoryError:
    if isinstance(error, ccxt.NetworkError):
        return HistoryError(
            f"{exchange.id} does not answer ({type(error).__name__}: {error}): try again, what has arrived is kept, "
            "or train from files with --data"
        )
    return HistoryError(f"{exchange.id} refused: {type(error).__name__}: {error}")


def gaps(bars: Sequence[Bar], bar_ms: int) -> tuple[tuple[int, int], ...]:
    """Ranges without a bar between two that there are; none of them is ever filled."""
    ts = np.array([bar.ts for bar in bars], np.int64)
    places = np.flatnonzero(np.diff(ts) > bar_ms)
    return tuple((int(ts[place]) + bar_ms, int(ts[place + 1])) for place in places)

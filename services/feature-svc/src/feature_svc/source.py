"""Asking a venue for candles: page by page, gaps once more, and far enough back to warm up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from feature_svc.core import Rules
from quantum_common.features import LONGEST_STEPPED_GAP_BARS
from quantum_common.features.hygiene import Bar, missing_bars, sift

Row = Sequence[float]
"""[open time in ms, open, high, low, close, volume], as the venue sent it."""

PAGE_BARS = 1000
SPARE_BARS = 48
"""Bars asked for beyond the warm-up, for those that the venue does not have."""
MOST_LOOKBACKS = 4


class CandleSource(Protocol):
    """A venue. Errors: VenueUnavailable, UnknownSymbol."""

    async def candles(self, symbol: str, since_ms: int, limit: int) -> list[Row]:
        """Up to `limit` bars opening at `since_ms` or later, oldest first; the last may still be open."""

    async def close(self) -> None: ...


async def fetch(source: CandleSource, symbol: str, since_ms: int, now_ms: int, bar_ms: int) -> list[Row]:
    """Every bar that opens from `since_ms` on and is closed at `now_ms`; the venue is asked twice for missing ones."""
    rows = await _pages(source, symbol, since_ms, now_ms, bar_ms)
    for start, stop in _gaps(rows, since_ms, now_ms, bar_ms):
        found = await _pages(source, symbol, start, stop, bar_ms)
        rows += [row for row in found if row[0] is not None and row[0] < stop]
    return rows


async def _pages(source: CandleSource, symbol: str, since_ms: int, now_ms: int, bar_ms: int) -> list[Row]:
    rows: list[Row] = []
    while since_ms + bar_ms <= now_ms:
        # One more than are closed, because the venue's clock may be ahead of ours.
        page = await source.candles(symbol, since_ms, min(PAGE_BARS, (now_ms - since_ms) // bar_ms + 1))
        rows += page
        newest = max((int(row[0]) for row in page if row[0] is not None), default=-1)
        if newest < since_ms:
            break
        since_ms = newest - newest % bar_ms + bar_ms
    return rows


def _gaps(rows: Sequence[Row], since_ms: int, now_ms: int, bar_ms: int) -> list[tuple[int, int]]:
    """Ranges [start, stop) without a bar, before the newest bar there is."""
    times = {int(row[0]) for row in rows if row[0] is not None and row[0] + bar_ms <= now_ms}
    present = sorted(ts for ts in times if ts % bar_ms == 0 and ts >= since_ms)
    edges = zip([since_ms - bar_ms, *present], present, strict=False)
    return [(before + bar_ms, after) for before, after in edges if after - before > bar_ms]


async def fetch_history(source: CandleSource, symbol: str, first_ts: int, now_ms: int, rules: Rules) -> list[Row]:
    """Bars from far enough before `first_ts` to publish that bar, through `now_ms`.

    Where bars are missing it looks further back, as long as the venue has more and that can help.
    """
    bars = rules.bars_before_first + SPARE_BARS
    since_ms = max(0, first_ts - bars * rules.bar_ms)
    rows = await fetch(source, symbol, since_ms, now_ms, rules.bar_ms)
    for _ in range(MOST_LOOKBACKS):
        usable = sift(rows, bar_ms=rules.bar_ms, last_ts=None, now_ms=now_ms).bars
        before = [bar for bar in usable if bar.ts < first_ts]
        if since_ms == 0 or not before or len(before) >= rules.bars_before_first or _broken(before, rules.bar_ms):
            break
        if before[0].ts - since_ms > LONGEST_STEPPED_GAP_BARS * rules.bar_ms:
            break
        bars *= 2
        earlier_ms, since_ms = since_ms, max(0, first_ts - bars * rules.bar_ms)
        rows = await fetch(source, symbol, since_ms, min(earlier_ms, now_ms), rules.bar_ms) + rows
    return rows


def _broken(bars: Sequence[Bar], bar_ms: int) -> bool:
    """Whether a gap in there restarts the warm-up: what lies before it cannot help."""
    return any(missing_bars(older.ts, newer.ts, bar_ms) > LONGEST_STEPPED_GAP_BARS for older, newer in pairwise(bars))

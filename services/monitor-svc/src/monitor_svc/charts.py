"""Geometry of the pictures, in percent of their area, so that they are sharp at any width. Templates draw it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from monitor_svc.view_of_fleet import AgentRow, Share
from monitor_svc.view_of_market import Bar, DecisionRow, EquityPoint, FillMark, Prices, VoteRow

SIDE_MARGIN_PCT = 1.0
TOP_PCT, BOTTOM_PCT = 8.0, 92.0
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Tick(NamedTuple):
    at_pct: float
    label: str


class Candlestick(NamedTuple):
    x_pct: float
    left_pct: float
    width_pct: float
    high_pct: float
    low_pct: float
    top_pct: float
    height_pct: float
    rising: bool


class Mark(NamedTuple):
    x_pct: float
    y_pct: float
    row: DecisionRow


class FillPoint(NamedTuple):
    x_pct: float
    y_pct: float
    fill: FillMark


class PriceChart(NamedTuple):
    candles: list[Candlestick]
    marks: list[Mark]
    fills: list[FillPoint]
    y_ticks: list[Tick]
    x_ticks: list[Tick]


class LineChart(NamedTuple):
    line: str
    """Points of a polyline in a 100 × 100 area."""
    area: str
    y_ticks: list[Tick]
    x_ticks: list[Tick]


class Segment(NamedTuple):
    name: str
    start_pct: float
    width_pct: float
    number: int


class _Scale(NamedTuple):
    low: float
    high: float
    start: float = TOP_PCT
    end: float = BOTTOM_PCT

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 3)


def price_chart(prices: Prices) -> PriceChart | None:
    """Candles, the decisions beside them and the fills at their price and time; None without a bar."""
    bars = prices.bars
    if not bars:
        return None
    # One bar more on the right: what a bar's close decides is filled after it.
    across = _Scale(bars[0].ts_ms, bars[-1].ts_ms + 2 * prices.bar_ms, SIDE_MARGIN_PCT, 100 - SIDE_MARGIN_PCT)
    seen = [float(fill.price) for fill in prices.fills]
    low, high = min([bar.low for bar in bars] + seen), max([bar.high for bar in bars] + seen)
    up = _Scale(low, high, BOTTOM_PCT, TOP_PCT)
    by_time = {bar.ts_ms: bar for bar in bars}
    return PriceChart(
        candles=[_candle(bar, across, up, prices.bar_ms) for bar in bars],
        marks=[
            _mark(row, by_time[row.bar_ts_ms], across, up, prices.bar_ms)
            for row in prices.decisions
            if row.bar_ts_ms in by_time
        ],
        fills=[FillPoint(across.at(fill.market_ts_ms), up.at(float(fill.price)), fill) for fill in prices.fills],
        y_ticks=[Tick(up.at(value), label) for value, label in round_values(low, high, 6)],
        x_ticks=time_ticks(across),
    )


def _candle(bar: Bar, across: _Scale, up: _Scale, bar_ms: int) -> Candlestick:
    left, right = across.at(bar.ts_ms + 0.18 * bar_ms), across.at(bar.ts_ms + 0.82 * bar_ms)
    top, bottom = up.at(max(bar.open, bar.close)), up.at(min(bar.open, bar.close))
    return Candlestick(
        x_pct=round((left + right) / 2, 3),
        left_pct=left,
        width_pct=round(right - left, 3),
        high_pct=up.at(bar.high),
        low_pct=up.at(bar.low),
        top_pct=top,
        height_pct=round(bottom - top, 3),
        rising=bar.close >= bar.open,
    )


def _mark(row: DecisionRow, bar: Bar, across: _Scale, up: _Scale, bar_ms: int) -> Mark:
    """BUY stands below its bar, SELL above, HOLD at the foot of the picture."""
    x_pct = across.at(row.bar_ts_ms + bar_ms / 2)
    if row.action == "BUY":
        return Mark(x_pct, up.at(bar.low), row)
    return Mark(x_pct, up.at(bar.high) if row.action == "SELL" else 98.0, row)


def equity_chart(points: Sequence[EquityPoint]) -> LineChart | None:
    """The equity line over market time; None with fewer than two points."""
    if len(points) < 2:
        return None
    values = [float(point.equity_usd) for point in points]
    low, high = min(values), max(values)
    across = _Scale(points[0].market_ts_ms, points[-1].market_ts_ms, 0, 100)
    up = _Scale(low, high, BOTTOM_PCT, TOP_PCT)
    line = " ".join(
        f"{across.at(point.market_ts_ms)},{up.at(value)}" for point, value in zip(points, values, strict=True)
    )
    return LineChart(
        line=line,
        area=f"0,100 {line} 100,100",
        y_ticks=[Tick(up.at(value), label) for value, label in round_values(low, high, 6)],
        x_ticks=time_ticks(across),
    )


def round_values(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """At most `most` round values in the range, with labels of the decimals that they need."""
    if high <= low:
        return [(low, f"{low:,.2f}")]
    rough = (high - low) / most
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step)
    return [(number * step, f"{number * step:,.{decimals}f}") for number in range(first, math.floor(high / step) + 1)]


def time_ticks(across: _Scale, most: int = 5) -> list[Tick]:
    """Round UTC times of the range: minutes, hours or days."""
    steps = [60_000 * minutes for minutes in (1, 2, 5, 15, 30)] + [HOUR_MS * hours for hours in (1, 2, 6, 12)]
    steps += [DAY_MS * days for days in (1, 2, 5, 10, 30, 100, 300)]
    span = across.high - across.low
    step = next((step for step in steps if span / step <= most), steps[-1])
    shown = "%d %b" if step >= DAY_MS else "%d %b %H:%M" if span > DAY_MS else "%H:%M"
    first = math.ceil(across.low / step)
    ticks = []
    for number in range(first, math.floor(across.high / step) + 1):
        at_pct = across.at(number * step)
        if 5 <= at_pct <= 95:
            ticks.append(Tick(at_pct, datetime.fromtimestamp(number * step / 1000, UTC).strftime(shown)))
    return ticks


def segments(counts: Sequence[tuple[str, float]], whole: float) -> list[Segment]:
    """Parts side by side, each a share of `whole`; the empty ones are left out."""
    placed, start = [], 0.0
    for name, count in counts:
        if count and whole:
            width = 100 * count / whole
            placed.append(Segment(name, round(start, 3), round(width, 3), int(count)))
            start += width
    return placed


def agent_bar(row: AgentRow, most: int) -> list[Segment]:
    """An agent's SELL, HOLD, BUY and abstentions; `most` is the length of the longest bar."""
    counts = [(action, row.actions.get(action, 0)) for action in ("SELL", "HOLD", "BUY")]
    return segments([*counts, ("abstained", row.abstentions)], most)


def pie(shares: Sequence[Share]) -> list[Segment]:
    return segments([(share.action, share.count) for share in shares], sum(share.count for share in shares))


def vote_bar(vote: VoteRow) -> list[Segment]:
    """P(SELL), P(HOLD), P(BUY)."""
    return segments(list(zip(("SELL", "HOLD", "BUY"), vote.probabilities or (), strict=False)), 1)


def gauge_pct(value: float | None, full: float | None) -> float:
    """How far a gauge's arm goes, 0 to 100."""
    return round(min(100.0, max(0.0, 100 * value / full)), 2) if value is not None and full else 0.0

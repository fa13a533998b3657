"""Which candles may enter the recursions. Pure: the live service and the batch use the same rules.

Reasons are codes that name the field; they are the labels of metrics and the reasons in the dead-letter stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import NamedTuple

PRICE_LIMIT = 1e15
"""Prices lie in (1/limit, limit) and volumes below it, so that no ratio, square or sum of ours can overflow."""

_OF_PRICE = ("not_finite", "not_positive", "out_of_range")
REASONS: tuple[str, ...] = (
    *(f"{name}_{fault}" for name in ("open", "high", "low", "close") for fault in _OF_PRICE),
    *("volume_not_finite", "volume_negative", "volume_out_of_range", "high_below_low"),
    *(f"{name}_{side}" for name in ("open", "close") for side in ("below_low", "above_high")),
    *("ts_off_grid", "ts_out_of_order", "ts_not_finite"),
)
"""Every reason there is."""


class Bar(NamedTuple):
    """A closed bar: open time in UTC ms, prices in quote currency, volume in base asset."""

    ts: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A bar that must not be used, and why."""

    bar: Bar
    reason: str


@dataclass(frozen=True, slots=True)
class Sifted:
    """A fetch after hygiene: usable new bars by time, refused ones, and how many were repetitions."""

    bars: tuple[Bar, ...]
    refused: tuple[Refused, ...]
    duplicates: int


def refusal(bar: Bar, bar_ms: int) -> str | None:
    """Why this bar may not be used: a reason code that names the field, or None for a sane bar."""
    ts, open_, high, low, close, volume = bar
    for name, price in (("open", open_), ("high", high), ("low", low), ("close", close)):
        if not isfinite(price):
            return f"{name}_not_finite"
        if price <= 0.0:
            return f"{name}_not_positive"
        if not 1.0 / PRICE_LIMIT < price < PRICE_LIMIT:
            return f"{name}_out_of_range"
    if not isfinite(volume):
        return "volume_not_finite"
    if volume < 0.0:
        return "volume_negative"
    if 0.0 < volume <= 1.0 / PRICE_LIMIT or volume >= PRICE_LIMIT:
        return "volume_out_of_range"
    if high < low:
        return "high_below_low"
    for name, price in (("open", open_), ("close", close)):
        if price < low:
            return f"{name}_below_low"
        if price > high:
            return f"{name}_above_high"
    if ts % bar_ms:
        return "ts_off_grid"
    return None


def sift(fetched: Iterable[Sequence[float]], *, bar_ms: int, last_ts: int | None, now_ms: float = inf) -> Sifted:
    """Hygiene of one fetch of [ts, open, high, low, close, volume] rows.

    Inside the fetch: bars still open at `now_ms` are left out, repetitions dropped (the first one stays), the rest
    sorted. Against `last_ts`, the newest bar already taken in: the same bar again is a repetition, an older one is
    refused as `ts_out_of_order`.
    """
    seen: set[int] = set()
    bars: list[Bar] = []
    refused: list[Refused] = []
    duplicates = 0
    for row in fetched:
        bar = _bar(row)
        if isinstance(bar, Refused):
            refused.append(bar)
        elif bar.ts + bar_ms > now_ms:
            continue
        elif reason := refusal(bar, bar_ms):
            refused.append(Refused(bar, reason))
        elif bar.ts == last_ts or bar.ts in seen:
            duplicates += 1
        elif last_ts is not None and bar.ts < last_ts:
            refused.append(Refused(bar, "ts_out_of_order"))
        else:
            seen.add(bar.ts)
            bars.append(bar)
    bars.sort()
    return Sifted(tuple(bars), tuple(refused), duplicates)


def _bar(row: Sequence[float]) -> Bar | Refused:
    """A venue sends null where it has no number."""
    nan = float("nan")
    values = [nan if value is None else float(value) for value in row[:6]]
    values += [nan] * (6 - len(values))
    if not isfinite(values[0]):
        return Refused(Bar(0, *values[1:]), "ts_not_finite")
    return Bar(int(values[0]), *values[1:])


def is_stale(newest_ts: int | None, bar_ms: int, now_ms: int) -> bool:
    """Whether the newest closed bar is older than two timeframes: nothing may be published on it.

    A bar is as old as the time since it closed.
    """
    return newest_ts is None or now_ms - (newest_ts + bar_ms) > 2 * bar_ms


def missing_bars(previous_ts: int | None, ts: int, bar_ms: int) -> int:
    """Bars that the venue does not have between two that it has."""
    return 0 if previous_ts is None else (ts - previous_ts) // bar_ms - 1

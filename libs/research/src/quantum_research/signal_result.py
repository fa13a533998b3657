"""What trading a model's signals would have earned after fees, beside chance and beside simply holding.

A trade enters at the close of the signal's bar, leaves at the close of the label's horizon and is one symbol's share
of the capital (1 / symbols), not compounded. While it is open its symbol takes no other. SELL is a short position.
Slippage and funding are not in it: each basis point of slippage a side takes two from every trade.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_research.bootstrap import DAY_MS, DayBlocks, Estimate
from quantum_research.dataset import Dataset
from quantum_research.labels import BUY, HOLD, SELL

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]

FEE_BPS = 5.0
"""Of a taker, per side."""
CONFIDENCES = (0.40, 0.50, 0.65)
TOP_MOVES = "top 1 %"
_TOP_SHARE = 0.01
_RANDOM_RUNS = 100
_CURVE_POINTS = 200
_DAYS_A_YEAR = 365


class Chance(msgspec.Struct, frozen=True):
    """The same number of trades with the same sides at random bars of the same symbols, many times."""

    net_mean_bps: float
    net_low_bps: float
    """5 % of the random runs earned less."""
    net_high_bps: float
    beaten_share: float
    """Share of the random runs that earned less a trade than the signals."""


class SignalResult(msgspec.Struct, frozen=True):
    """Basis points are of a trade's notional, per cent of the capital."""

    rule: str
    trades: int
    hit_rate: float | None = None
    """Share of trades that gained before fees."""
    gross_mean_bps: float | None = None
    net_mean_bps: Estimate | None = None
    total_net_pct: float = 0.0
    sharpe: float | None = None
    """Mean daily net result / its standard deviation × √365."""
    max_drawdown_pct: float = 0.0
    chance: Chance | None = None
    curve: list[tuple[int, float]] = []
    """(UTC ms, net result so far in per cent of the capital), at most 200 points."""


class Holding(msgspec.Struct, frozen=True):
    """Buying every symbol for the same amount at the first bar and selling at the last."""

    total_net_pct: float
    sharpe: float | None
    max_drawdown_pct: float
    curve: list[tuple[int, float]] = []


@dataclass(frozen=True, slots=True)
class Trades:
    rows: Rows
    side: Array
    """1 long, −1 short."""


def signal_results(
    probabilities: Array, data: Dataset, blocks: DayBlocks, *, fee_bps: float, seed: int
) -> list[SignalResult]:
    """One per rule: the chosen class is a move and at least this confident; and the 1 % of rows likeliest to move up
    or down, whatever P(HOLD) is (where an honest model chooses BUY or SELL hardly ever).
    """
    buys = probabilities[:, BUY] >= probabilities[:, SELL]
    strength = np.where(buys, probabilities[:, BUY], probabilities[:, SELL])
    chosen = probabilities.argmax(axis=1) != HOLD
    rules = {f"≥ {at:.2f}": chosen & (strength >= at) for at in CONFIDENCES}
    rules[TOP_MOVES] = strength > np.quantile(strength, 1.0 - _TOP_SHARE)
    side = np.where(buys, 1.0, -1.0)
    return [_result(rule, enter, side, data, blocks, fee_bps, seed) for rule, enter in rules.items()]


def _result(
    rule: str, enter: Mask, side: Array, data: Dataset, blocks: DayBlocks, fee_bps: float, seed: int
) -> SignalResult:
    rows = non_overlapping(enter, data)
    if not len(rows):
        return SignalResult(rule, 0)
    trades = Trades(rows, side[rows])
    gross = trades.side * data.change[rows]
    net = gross - 2e-4 * fee_bps
    by_row = np.zeros(len(data))
    by_row[rows] = net
    taken = np.zeros(len(data), bool)
    taken[rows] = True
    days, daily = _daily(data, rows, net)
    return SignalResult(
        rule=rule,
        trades=len(rows),
        hit_rate=float((gross > 0).mean()),
        gross_mean_bps=float(1e4 * gross.mean()),
        net_mean_bps=blocks.mean(1e4 * by_row, taken),
        total_net_pct=float(100 * daily.sum()),
        sharpe=_sharpe(daily),
        max_drawdown_pct=_max_drawdown_pct(daily),
        chance=_chance(trades, data, fee_bps, float(net.mean()), seed),
        curve=_curve(days, daily),
    )


def non_overlapping(enter: Mask, data: Dataset) -> Rows:
    """The rows that trade when a symbol takes a signal only after its last trade has ended; sorted."""
    taken = []
    for symbol in np.unique(data.symbol[enter]):
        rows = np.flatnonzero(enter & (data.symbol == symbol))
        after = np.searchsorted(data.ts_ms[rows], _last_bar_ms(data)[rows], side="left").tolist()
        place = 0
        while place < len(rows):
            taken.append(rows[place])
            place = max(after[place], place + 1)
    return np.sort(np.array(taken, dtype=np.intp))


def _last_bar_ms(data: Dataset) -> NDArray[np.int64]:
    """Open of the bar at whose close a trade ends: its symbol may enter again at that close."""
    bar_ms = (data.label_end_ms - data.ts_ms) // (data.horizon_bars + 1)
    opens: NDArray[np.int64] = data.label_end_ms - bar_ms
    return opens


def _daily(data: Dataset, rows: Rows, net: Array) -> tuple[NDArray[np.int64], Array]:
    """Every UTC day of the range and the share of the capital gained on it; a trade counts on the day it ends."""
    first, last = int(data.ts_ms.min()) // DAY_MS, int(data.label_end_ms.max()) // DAY_MS
    ended = (data.label_end_ms[rows] // DAY_MS - first).astype(np.intp)
    daily = np.bincount(ended, weights=net, minlength=last - first + 1) / len(data.symbols)
    return np.arange(first, last + 1), daily


def _chance(trades: Trades, data: Dataset, fee_bps: float, net_mean: float, seed: int) -> Chance:
    generator = np.random.default_rng(seed)
    total = np.zeros(_RANDOM_RUNS)
    for symbol in np.unique(data.symbol[trades.rows]):
        side = trades.side[data.symbol[trades.rows] == symbol]
        changes = data.change[data.symbol == symbol]
        drawn = changes[generator.integers(len(changes), size=(_RANDOM_RUNS, len(side)))]
        total += drawn @ side
    net = total / len(trades.rows) - 2e-4 * fee_bps
    low, high = np.quantile(net, [0.05, 0.95])
    return Chance(float(1e4 * net.mean()), float(1e4 * low), float(1e4 * high), float((net < net_mean).mean()))


def holding(data: Dataset, *, fee_bps: float) -> Holding:
    """Equal amounts in every symbol from its first row's close to its last; both fees fall on the last day."""
    closes = data.vectors[data.bar, 0]
    first_day = int(data.ts_ms.min()) // DAY_MS
    days = np.arange(first_day, int(data.ts_ms.max()) // DAY_MS + 1)
    worth = np.zeros(len(days))
    present = np.unique(data.symbol)
    for symbol in present:
        rows = np.flatnonzero(data.symbol == symbol)
        last_of_day = np.searchsorted(data.ts_ms[rows] // DAY_MS, days, side="right") - 1
        worth += np.where(last_of_day < 0, 1.0, closes[rows][last_of_day] / closes[rows[0]])
    daily = np.diff(worth / len(present), prepend=1.0)
    daily[-1] -= 2e-4 * fee_bps
    return Holding(float(100 * daily.sum()), _sharpe(daily), _max_drawdown_pct(daily), _curve(days, daily))


def _sharpe(daily: Array) -> float | None:
    deviation = daily.std()
    return float(daily.mean() / deviation * np.sqrt(_DAYS_A_YEAR)) if deviation > 0 else None


def _max_drawdown_pct(daily: Array) -> float:
    level = np.concatenate(([0.0], np.cumsum(daily)))
    return float(100 * (np.maximum.accumulate(level) - level).max())


def _curve(days: NDArray[np.int64], daily: Array) -> list[tuple[int, float]]:
    level = 100 * np.cumsum(daily)
    at = np.unique(np.linspace(0, len(days) - 1, min(len(days), _CURVE_POINTS)).astype(int))
    return [(int(days[k]) * DAY_MS, round(float(level[k]), 4)) for k in at]

"""The synthetic book around the current price: a spread, then levels of equal notional one slippage step apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import count

from exchange_sim.orders import Side
from exchange_sim.rules import SymbolRules

_BPS = Decimal(10_000)


@dataclass(frozen=True, slots=True)
class BookShape:
    """Spread from best bid to best ask, distance of one level from the next, notional on a level."""

    spread_bps: Decimal
    slippage_bps: Decimal
    depth_usd: Decimal


Level = tuple[Decimal, Decimal]
"""Price and quantity."""


def levels(shape: BookShape, rules: SymbolRules, mid: Decimal, taker: Side) -> Iterator[Level]:
    """Levels a taker of that side meets, best first, without end; no price is below one tick."""
    sign = 1 if taker == "BUY" else -1
    rounding = ROUND_CEILING if taker == "BUY" else ROUND_FLOOR
    half = mid * shape.spread_bps / _BPS / 2
    best = ((mid + sign * half) / rules.tick).quantize(Decimal(1), rounding) * rules.tick
    apart = max(rules.round_to_tick(mid * shape.slippage_bps / _BPS), rules.tick)
    quantity = max((shape.depth_usd / mid / rules.step).quantize(Decimal(1), ROUND_FLOOR) * rules.step, rules.step)
    for number in count():
        yield max(best + sign * number * apart, rules.tick), quantity


def best(shape: BookShape, rules: SymbolRules, mid: Decimal, taker: Side) -> Level:
    """What a taker of that side meets first: the best ask for a buyer, the best bid for a seller."""
    return next(levels(shape, rules, mid, taker))


def walk(
    shape: BookShape, rules: SymbolRules, mid: Decimal, taker: Side, quantity: Decimal, limit: Decimal | None
) -> list[Level]:
    """Fills of a taker: up to `quantity`, never beyond its `limit` price."""
    fills: list[Level] = []
    left = quantity
    for price, resting in levels(shape, rules, mid, taker):
        if left <= 0 or (limit is not None and (price > limit if taker == "BUY" else price < limit)):
            break
        taken = min(left, resting)
        fills.append((price, taken))
        left -= taken
    return fills

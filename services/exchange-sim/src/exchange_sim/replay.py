"""The venue's clock: it moves along the price path and stops at the first fill or trigger. Pure: state and market in.

Events at one moment happen one per call, ordered by exact path time, symbol and id; funding that is due by then comes
first. So the same calls give the same fills, whatever lies between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from exchange_sim import account, trading
from exchange_sim.market import Crossing, Market
from exchange_sim.orders import AlgoOrder, Order, Position
from exchange_sim.rules import SymbolRules
from exchange_sim.state import VenueState

FUNDING_INTERVAL_MS = 8 * 3_600_000


@dataclass(frozen=True)
class World:
    """What does not change while the venue runs: bars, filters, costs, funding rates."""

    market: Market
    rules: Mapping[str, SymbolRules]
    terms: trading.Terms
    funding_rate: Decimal
    """Default, fraction of notional per interval."""
    funding_history: Mapping[str, Mapping[int, Decimal]]
    """Historic rates by symbol and funding time."""

    def price(self, symbol: str, now_ms: int) -> Decimal:
        return self.rules[symbol].price_of(self.market.symbols[symbol].price_at(now_ms))

    def rate(self, symbol: str, funding_ms: int) -> Decimal:
        return self.funding_history.get(symbol, {}).get(funding_ms, self.funding_rate)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that happens when the path reaches `level`: a resting order, a trigger, or a liquidation."""

    target: Order | AlgoOrder | Position
    level: Decimal
    rising: bool

    @property
    def rank(self) -> tuple[str, int, int]:
        match self.target:
            case Order():
                return self.target.symbol, 0, self.target.order_id
            case AlgoOrder():
                return self.target.symbol, 1, self.target.algo_id
            case Position():
                return self.target.symbol, 2, 0


def advance(state: VenueState, world: World, to_ms: int) -> bool:
    """Move the clock to `to_ms`, or to the first fill or trigger before it; True when it stopped at one."""
    found = _first(state, world, to_ms)
    end_ms = found[1].ts_ms if found else to_ms
    _pay_funding(state, world, end_ms)
    state.now_ms = end_ms
    if found:
        _happen(state, world, *found)
    return found is not None


def _first(state: VenueState, world: World, to_ms: int) -> tuple[Waiting, Crossing] | None:
    best: tuple[Waiting, Crossing] | None = None
    for waiting in _all_waiting(state, world):
        symbol = world.market.symbols[waiting.target.symbol]
        crossing = symbol.crossing(state.now_ms, to_ms, float(waiting.level), rising=waiting.rising)
        if crossing and (best is None or (crossing.at, waiting.rank) < (best[1].at, best[0].rank)):
            best = waiting, crossing
    return best


def _all_waiting(state: VenueState, world: World) -> Iterator[Waiting]:
    for order in state.open_orders.values():
        yield Waiting(order, order.price, order.side == "SELL")
    for algo in state.open_algos.values():
        yield Waiting(algo, algo.trigger_price, trading.triggers_rising(algo.side, algo.type))
    for position in state.positions.values():
        level = account.liquidation_price(state, position, world.rules[position.symbol])
        if level > 0:
            yield Waiting(position, level, position.quantity < 0)


def _happen(state: VenueState, world: World, waiting: Waiting, crossing: Crossing) -> None:
    target, rules = waiting.target, world.rules[waiting.target.symbol]
    price = waiting.level if crossing.price == float(waiting.level) else rules.price_of(crossing.price)
    match target:
        case Order():
            trading.fill_resting(state, target, world.terms)
        case AlgoOrder():
            trading.trigger_algo(state, target, price, rules, world.terms, partial(world.price, now_ms=state.now_ms))
        case Position():
            trading.liquidate(state, target.symbol, price, rules, world.terms)


def _pay_funding(state: VenueState, world: World, end_ms: int) -> None:
    due_ms = (state.now_ms // FUNDING_INTERVAL_MS + 1) * FUNDING_INTERVAL_MS
    while due_ms <= end_ms:
        for position in list(state.positions.values()):
            if position.quantity:
                mark = world.price(position.symbol, due_ms)
                account.pay_funding(state, position, mark, world.rate(position.symbol, due_ms), due_ms)
        due_ms += FUNDING_INTERVAL_MS

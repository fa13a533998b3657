"""Money: what a fill, a fee and a funding payment do to wallet and position. Exact decimals, USDT.

The wallet is initial balance + realised profit − fees + funding, to the last digit: a position carries its cost instead
of an average price, so that closing it realises exactly what was paid and received.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal

from exchange_sim.orders import Income, Order, Position, Side, SymbolConfig, Trade
from exchange_sim.rules import SymbolRules
from exchange_sim.state import VenueState

CENT_8 = Decimal("0.00000001")
_BPS = Decimal(10_000)

Mark = Callable[[str], Decimal]
"""Current price of a symbol."""


def round_8(value: Decimal) -> Decimal:
    return value.quantize(CENT_8, ROUND_HALF_EVEN)


def signed(side: Side, quantity: Decimal) -> Decimal:
    return quantity if side == "BUY" else -quantity


def unrealized(position: Position, mark: Decimal) -> Decimal:
    return position.quantity * mark - position.cost


def apply_fill(position: Position, config: SymbolConfig, change: Decimal, price: Decimal) -> Decimal:
    """Move the position by `change` (signed base quantity) at `price`; returns the realised profit, gross of fees."""
    closing = min(abs(change), abs(position.quantity)) if change * position.quantity < 0 else Decimal(0)
    realized = Decimal(0)
    if closing:
        share = closing / abs(position.quantity)
        cost = position.cost if share == 1 else round_8(position.cost * share)
        margin = position.margin if share == 1 else round_8(position.margin * share)
        closed = closing if position.quantity > 0 else -closing
        realized = closed * price - cost
        position.quantity -= closed
        position.cost -= cost
        position.margin -= margin
    opening = abs(change) - closing
    if opening:
        opened = opening if change > 0 else -opening
        position.quantity += opened
        position.cost += opened * price
        position.margin += round_8(opening * price / config.leverage)
    return realized


def record_trade(
    state: VenueState, order: Order, price: Decimal, quantity: Decimal, *, maker: bool, fee_bps: Decimal, now_ms: int
) -> Trade:
    """Book one fill: position, wallet, fee, income rows, and the order's progress."""
    position = state.position(order.symbol)
    realized = apply_fill(position, state.config(order.symbol), signed(order.side, quantity), price)
    fee = round_8(price * quantity * fee_bps / _BPS)
    position.updated_ms = now_ms
    state.put(position)
    state.counters.trade_id += 1
    trade = Trade(
        state.counters.trade_id, order.order_id, order.symbol, order.side, price, quantity, fee, realized, maker, now_ms
    )
    state.put(trade)
    add_income(state, order.symbol, "REALIZED_PNL", realized, now_ms, trade.trade_id)
    add_income(state, order.symbol, "COMMISSION", -fee, now_ms, trade.trade_id)
    order.filled += quantity
    order.quote += price * quantity
    order.status = "FILLED" if order.remaining <= 0 else "PARTIALLY_FILLED"
    order.updated_ms = now_ms
    state.put(order)
    return trade


def add_income(
    state: VenueState, symbol: str, kind: str, amount: Decimal, now_ms: int, trade_id: int | None = None
) -> None:
    """Change the wallet and say why; nothing is written for zero."""
    if not amount:
        return
    state.counters.tran_id += 1
    state.wallet += amount
    state.put(Income(state.counters.tran_id, symbol, kind, amount, now_ms, trade_id))


def pay_funding(state: VenueState, position: Position, mark: Decimal, rate: Decimal, now_ms: int) -> None:
    """Longs pay shorts when the rate is positive: −quantity × mark × rate."""
    add_income(state, position.symbol, "FUNDING_FEE", round_8(-position.quantity * mark * rate), now_ms)


def initial_margin(state: VenueState, position: Position, mark: Decimal) -> Decimal:
    """What the position ties up: its own wallet when isolated, notional / leverage when cross."""
    config = state.config(position.symbol)
    return position.margin if config.isolated else round_8(abs(position.quantity) * mark / config.leverage)


def order_margin(state: VenueState, order: Order) -> Decimal:
    """What a resting order ties up; reducing orders nothing."""
    if order.reduce_only:
        return Decimal(0)
    return round_8(order.remaining * order.price / state.config(order.symbol).leverage)


def available_balance(state: VenueState, mark: Mark) -> Decimal:
    """Free for new orders: wallet, plus unrealised profit of cross positions, less what positions and orders hold."""
    free = state.wallet
    for position in state.positions.values():
        if position.quantity:
            price = mark(position.symbol)
            free -= initial_margin(state, position, price)
            if not state.config(position.symbol).isolated:
                free += unrealized(position, price)
    return free - sum((order_margin(state, order) for order in state.open_orders.values()), Decimal(0))


def equity(state: VenueState, mark: Mark) -> Decimal:
    """Wallet plus unrealised profit."""
    profits = (unrealized(p, mark(p.symbol)) for p in state.positions.values() if p.quantity)
    return state.wallet + sum(profits, Decimal(0))


def maintenance_margin(position: Position, rules: SymbolRules, mark: Decimal) -> Decimal:
    notional = abs(position.quantity) * mark
    bracket = rules.bracket(notional)
    return round_8(max(notional * bracket.maintenance_rate - bracket.cumulative, Decimal(0)))


def liquidation_price(state: VenueState, position: Position, rules: SymbolRules) -> Decimal:
    """Price at which an isolated position has only its maintenance margin left; 0 when there is none.

    From margin + quantity × price − cost = |quantity| × price × rate − cumulative.
    """
    if not position.quantity or not state.config(position.symbol).isolated:
        return Decimal(0)
    bracket = rules.bracket(abs(position.cost))
    slope = position.quantity - abs(position.quantity) * bracket.maintenance_rate
    return max(rules.round_to_tick((position.cost - position.margin - bracket.cumulative) / slope), Decimal(0))

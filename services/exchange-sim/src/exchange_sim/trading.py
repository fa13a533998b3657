"""Commands on the account: place and cancel orders. State and prices in, a changed state out; no clock, no I/O.

A command either changes the state completely or raises VenueError before its first change.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from exchange_sim import account, book
from exchange_sim.errors import VenueError
from exchange_sim.orders import AlgoOrder, Order, Side
from exchange_sim.requests import AlgoRequest, OrderRequest
from exchange_sim.rules import MAX_ALGO_ORDERS, SymbolRules, check_notional, check_percent_price
from exchange_sim.state import VenueState


@dataclass(frozen=True, slots=True)
class Terms:
    """What trading costs at this venue: fees in basis points, and the shape of the book."""

    taker_fee_bps: Decimal
    maker_fee_bps: Decimal
    book: book.BookShape


def place_order(
    state: VenueState, request: OrderRequest, rules: SymbolRules, terms: Terms, mark: account.Mark
) -> Order:
    """Accept an ordinary order: a market order and a crossing limit order fill at once, the rest of a limit rests."""
    if _is_open_id(state, request.client_order_id):
        raise VenueError(-4116)
    price = mark(request.symbol)
    quantity = _reducible(state, request.symbol, request.side, request.quantity) if request.reduce_only else None
    if quantity == 0:
        raise VenueError(-2022)
    quantity = quantity or request.quantity
    limit = request.price if request.type == "LIMIT" else None
    if limit is not None:
        check_percent_price(rules, request.side, limit, price)
    fills = book.walk(terms.book, rules, price, request.side, quantity, limit)
    check_notional(rules, quantity * (limit or price), reduce_only=request.reduce_only)
    _check_time_in_force(request, fills, quantity)
    if not request.reduce_only:
        _check_margin(state, request, quantity, limit or fills[-1][0], terms, mark)
    order = _new_order(state, request, quantity)
    _take(state, order, fills, terms)
    if order.is_open and request.time_in_force == "IOC":
        order.status = "EXPIRED"
        state.put(order)
    drop_void_reducers(state, request.symbol)
    return order


def place_algo(state: VenueState, request: AlgoRequest, rules: SymbolRules, mark: account.Mark) -> AlgoOrder:
    """Accept a conditional order. Margin and reduce-only are judged when it triggers, as the venue does."""
    known = state.client_algos.get(request.client_algo_id)
    if known is not None and state.algos[known].is_open:
        raise VenueError(-4116)
    price = mark(request.symbol)
    if triggers_rising(request.side, request.type):
        immediate = price >= request.trigger_price
    else:
        immediate = price <= request.trigger_price
    if immediate:
        raise VenueError(-2021)
    if not request.reduce_only:
        check_notional(rules, request.quantity * request.trigger_price, reduce_only=False)
    if sum(algo.symbol == request.symbol for algo in state.open_algos.values()) >= MAX_ALGO_ORDERS:
        raise VenueError(-4045)
    state.counters.algo_id += 1
    algo = AlgoOrder(
        algo_id=state.counters.algo_id,
        client_algo_id=request.client_algo_id or f"sim-algo-{state.counters.algo_id}",
        symbol=request.symbol,
        side=request.side,
        type=request.type,
        quantity=request.quantity,
        trigger_price=request.trigger_price,
        reduce_only=request.reduce_only,
        close_position=request.close_position,
        working_type=request.working_type,
        time_in_force=request.time_in_force,
        status="NEW",
        created_ms=state.now_ms,
        updated_ms=state.now_ms,
    )
    state.put(algo)
    return algo


def cancel_order(state: VenueState, order: Order) -> Order:
    if not order.is_open:
        raise VenueError(-2011)
    order.status = "CANCELED"
    order.updated_ms = state.now_ms
    state.put(order)
    return order


def cancel_algo(state: VenueState, algo: AlgoOrder) -> AlgoOrder:
    if not algo.is_open:
        raise VenueError(-2011)
    algo.status = "CANCELED"
    algo.updated_ms = state.now_ms
    state.put(algo)
    return algo


def fill_resting(state: VenueState, order: Order, terms: Terms) -> None:
    """The path reached a resting limit order: it fills whole, as maker, at its own price."""
    left = order.remaining
    if order.reduce_only:
        left = min(left, _reducible(state, order.symbol, order.side, left))
    if left > 0:
        account.record_trade(
            state, order, order.price, left, maker=True, fee_bps=terms.maker_fee_bps, now_ms=state.now_ms
        )
    if order.is_open:
        order.status = "EXPIRED"
        order.updated_ms = state.now_ms
        state.put(order)
    drop_void_reducers(state, order.symbol)


def trigger_algo(
    state: VenueState, algo: AlgoOrder, price: Decimal, rules: SymbolRules, terms: Terms, mark: account.Mark
) -> None:
    """The path reached a trigger: the conditional order becomes an ordinary market order around `price`."""
    algo.trigger_ms = algo.updated_ms = state.now_ms
    wanted = abs(state.position(algo.symbol).quantity) if algo.close_position else algo.quantity
    quantity = _reducible(state, algo.symbol, algo.side, wanted) if algo.reduce_only else wanted
    fills = book.walk(terms.book, rules, price, algo.side, quantity, None)
    needed = Decimal(0) if algo.reduce_only else _needed(state, algo.symbol, algo.side, quantity, price, terms)
    if not fills or (needed and needed > account.available_balance(state, mark)):
        algo.status = "REJECTED"
        state.put(algo)
        return
    request = OrderRequest(
        algo.symbol, algo.side, "MARKET", "GTC", quantity, Decimal(0), algo.reduce_only, algo.client_algo_id
    )
    order = _new_order(state, request, quantity, algo)
    _take(state, order, fills, terms)
    algo.status = "FINISHED"
    algo.actual_order_id = order.order_id
    algo.actual_price = order.quote / order.filled
    state.put(algo)
    drop_void_reducers(state, algo.symbol)


def liquidate(state: VenueState, symbol: str, price: Decimal, rules: SymbolRules, terms: Terms) -> None:
    """Close an isolated position whose margin is used up, by a market order of the venue's own."""
    position = state.position(symbol)
    side: Side = "SELL" if position.quantity > 0 else "BUY"
    quantity = abs(position.quantity)
    client_id = f"autoclose-{state.counters.order_id + 1}"
    request = OrderRequest(symbol, side, "MARKET", "GTC", quantity, Decimal(0), True, client_id)
    order = _new_order(state, request, quantity)
    _take(state, order, book.walk(terms.book, rules, price, side, quantity, None), terms)
    drop_void_reducers(state, symbol)


def triggers_rising(side: Side, kind: str) -> bool:
    """A buy stop and a sell target wait for a higher price, a sell stop and a buy target for a lower one."""
    return (side == "BUY") == (kind == "STOP_MARKET")


def drop_void_reducers(state: VenueState, symbol: str) -> None:
    """A reduce-only limit order with nothing left to reduce is taken out of the book by the venue."""
    for order in list(state.open_orders.values()):
        if order.symbol == symbol and order.reduce_only and not _reducible(state, symbol, order.side, order.remaining):
            order.status = "EXPIRED"
            order.updated_ms = state.now_ms
            state.put(order)


def _reducible(state: VenueState, symbol: str, side: Side, quantity: Decimal) -> Decimal:
    """How much of `quantity` on that side only reduces the position; 0 when it would open or flip one."""
    held = state.position(symbol).quantity
    reducing = held < 0 if side == "BUY" else held > 0
    return min(quantity, abs(held)) if reducing else Decimal(0)


def _check_time_in_force(request: OrderRequest, fills: list[book.Level], quantity: Decimal) -> None:
    if request.time_in_force == "GTX" and fills:
        raise VenueError(-5022)
    if request.time_in_force == "FOK" and sum(taken for _, taken in fills) < quantity:
        raise VenueError(-5021)


def _needed(state: VenueState, symbol: str, side: Side, quantity: Decimal, price: Decimal, terms: Terms) -> Decimal:
    """Margin and fee of the part that opens or adds to a position."""
    opening = quantity - _reducible(state, symbol, side, quantity)
    fee = quantity * price * terms.taker_fee_bps / 10_000
    return opening * price / state.config(symbol).leverage + fee


def _check_margin(
    state: VenueState, request: OrderRequest, quantity: Decimal, price: Decimal, terms: Terms, mark: account.Mark
) -> None:
    needed = _needed(state, request.symbol, request.side, quantity, price, terms)
    if needed > account.available_balance(state, mark):
        raise VenueError(-2019)


def _is_open_id(state: VenueState, client_order_id: str) -> bool:
    known = state.client_orders.get(client_order_id)
    return known is not None and state.orders[known].is_open


def _new_order(state: VenueState, request: OrderRequest, quantity: Decimal, algo: AlgoOrder | None = None) -> Order:
    state.counters.order_id += 1
    order = Order(
        order_id=state.counters.order_id,
        client_order_id=request.client_order_id or f"sim-{state.counters.order_id}",
        symbol=request.symbol,
        side=request.side,
        type=request.type,
        time_in_force=request.time_in_force,
        quantity=quantity,
        price=request.price,
        reduce_only=request.reduce_only,
        close_position=algo.close_position if algo else False,
        status="NEW",
        created_ms=state.now_ms,
        updated_ms=state.now_ms,
        original_type=algo.type if algo else request.type,
    )
    state.put(order)
    return order


def _take(state: VenueState, order: Order, fills: list[book.Level], terms: Terms) -> None:
    for price, quantity in fills:
        account.record_trade(
            state, order, price, quantity, maker=False, fee_bps=terms.taker_fee_bps, now_ms=state.now_ms
        )

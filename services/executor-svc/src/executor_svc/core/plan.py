"""What each position needs next: a stop and a target of exactly its size, an exit, or its orders cancelled."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from executor_svc.core.approvals import Rules, new_order, want_exit
from executor_svc.core.book import (
    NOTHING,
    RECENT,
    Book,
    Draft,
    Market,
    Order,
    OrderType,
    Outcome,
    Position,
    with_order,
    with_position,
    without_position,
)
from executor_svc.core.guards import bad_trigger
from executor_svc.core.reports import POSITION_CLOSED, RESIZED
from executor_svc.core.sizing import trigger_price
from executor_svc.core.states import OrderState
from quantum_common.contracts import TradeClosed
from quantum_common.domain.signal import Role

HOUR_MS = 3_600_000
MAX_EXIT_PAUSE_MS = 30_000

PROTECTION: tuple[tuple[Role, OrderType], ...] = (
    (Role.STOP, "stop_market"),
    (Role.TAKE_PROFIT, "take_profit_market"),
)


def plan(book: Book, markets: Mapping[str, Market], rules: Rules, wall_now_ms: int) -> Outcome:
    """Bring every position one step nearer to where it should be. A second call right after changes nothing."""
    events: list[Draft] = []
    for symbol in sorted(book.positions):
        book, more = _advance(book, book.positions[symbol], markets[symbol], rules, wall_now_ms)
        events += more
    return book, tuple(events)


def _advance(book: Book, position: Position, market: Market, rules: Rules, wall_now_ms: int) -> Outcome:
    if not position.quantity:
        return _finish(book, position)
    events = NOTHING
    if not position.exit_reason:
        book, events = _protect(book, position, market, rules, wall_now_ms)
        position = book.positions[position.symbol]
    exiting = position.exit_reason and not book.orders_of(position.symbol, Role.EXIT)
    if exiting and wall_now_ms >= position.exit_rejected_wall_ms + exit_pause_ms(position.exit_rejections):
        book, more = new_order(
            book, position, Role.EXIT, position.side.opposite, "market", position.quantity, None, wall_now_ms
        )
        events = (*events, *more)
    return book, events


def exit_pause_ms(rejections: int) -> int:
    """Between exits the venue refuses: the first is repeated at once, later ones after 0.2, 0.4 … 30 s."""
    return 0 if rejections < 2 else min(50 << min(rejections, 10), MAX_EXIT_PAUSE_MS)


def _protect(book: Book, position: Position, market: Market, rules: Rules, wall_now_ms: int) -> Outcome:
    events = NOTHING
    if _triggered(book, position):
        patience_ms = rules.unfilled_trigger_ms
        overdue = patience_ms is not None and any(
            wall_now_ms - order.triggered_wall_ms > patience_ms
            for order in book.orders_of(position.symbol)
            if order.spawned_order_id
        )
        return (want_exit(book, position.symbol, "unprotected") if overdue else book), ()
    for role, order_type in PROTECTION:
        live = book.orders_of(position.symbol, role)
        if live:
            book = _resize(book, live[0], position)
            continue
        position = book.positions[position.symbol]
        if position.exit_reason or position.protect_failures.get(role, 0) >= rules.max_protect_failures:
            book = want_exit(book, position.symbol, "unprotected") if role is Role.STOP else book
            continue
        gains = role is Role.TAKE_PROFIT
        distance = position.take_profit_distance_fraction if gains else position.stop_distance_fraction
        price = trigger_price(position.entry_price, position.side, distance, gains=gains, tick=market.tick_size)
        if bad_trigger(position, role, price, market):
            book = want_exit(book, position.symbol, "unprotected") if role is Role.STOP else book
            continue
        side = position.side.opposite
        book, more = new_order(book, position, role, side, order_type, position.quantity, price, wall_now_ms)
        events = (*events, *more)
    return book, events


def _triggered(book: Book, position: Position) -> bool:
    return any(order.spawned_order_id for order in book.orders_of(position.symbol))


def _resize(book: Book, order: Order, position: Position) -> Book:
    """An order of another size is cancelled first; the next call makes the right one: never two live stops."""
    if order.state is OrderState.OPEN and order.quantity - order.filled != position.quantity:
        return cancel(book, order, RESIZED)
    return book


def cancel(book: Book, order: Order, reason: str) -> Book:
    return with_order(book, msgspec.structs.replace(order, state=OrderState.CANCELING, reason=reason))


def _finish(book: Book, position: Position) -> Outcome:
    if not position.entry_quantity:
        return book, ()  # the entry is still under way
    live = book.orders_of(position.symbol)
    if any(order.role is Role.ENTRY for order in live):
        return book, ()  # more of it may fill
    for order in live:
        if order.state is OrderState.OPEN:
            book = cancel(book, order, POSITION_CLOSED)
    events = NOTHING
    if not position.closed and not funding_due(position):
        events = (_trade_closed(position),)
        trades = (*book.recent_trades, events[0].payload)[-RECENT:]
        position = msgspec.structs.replace(position, closed=True)
        book = msgspec.structs.replace(with_position(book, position), recent_trades=trades)
    if position.closed and not live:
        book = without_position(book, position.symbol)
    return book, events


def funding_due(position: Position) -> bool:
    """True when a whole hour (the venue pays funding on some of them) passed while it was held, and nobody asked."""
    since = max(position.opened_ts_ms, position.funding_checked_ts_ms)
    return not position.closed and position.last_fill_ts_ms // HOUR_MS > since // HOUR_MS


def _trade_closed(position: Position) -> Draft:
    assert position.exit_role is not None
    reason = position.exit_reason if position.exit_role is Role.EXIT else position.exit_role.value
    payload = TradeClosed(
        decision_id=position.decision_id,
        decision_bar_ts_ms=position.decision_bar_ts_ms,
        side=position.side,
        quantity=position.entry_quantity,
        entry_price=position.entry_price,
        exit_price=position.exit_notional / position.exit_quantity,
        fees=position.fees,
        funding=position.funding,
        pnl=position.realized_pnl - position.fees + position.funding,
        exit_role=position.exit_role,
        exit_reason=reason,
        opened_ts_ms=position.opened_ts_ms,
        closed_ts_ms=position.last_fill_ts_ms,
    )
    return Draft(payload, position.decision_id, position.symbol, position.timeframe, position.decision_bar_ts_ms)

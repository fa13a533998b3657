"""The venue's trades are the only source of fills (F01, F24)."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from executor_svc.core.book import (
    NOTHING,
    RECENT,
    ZERO,
    Book,
    Draft,
    Order,
    Outcome,
    Position,
    order_event,
    with_order,
    with_position,
)
from executor_svc.core.reports import settle_order
from executor_svc.core.venue_facts import Trade
from quantum_common.contracts import OrderFilled
from quantum_common.domain.signal import OrderSide, Role

EXTERNAL = "external"
"""Exit reason of a position that others ended: an operator at the venue, a liquidation."""


def take_trades(book: Book, symbol: str, trades: Sequence[Trade]) -> tuple[Book, tuple[Draft, ...], Trade | None]:
    """Book the symbol's trades that are newer than the last one taken in, in the venue's order.

    Stops before a trade it cannot place (unknown order, impossible price, quantity or side) and returns it: the
    shell finds out whose it is. So no trade is skipped, and taking the same trades twice changes nothing (F28).
    """
    events: list[Draft] = []
    for trade in sorted(trades, key=lambda trade: trade.trade_id):
        if trade.trade_id <= book.last_trade_ids.get(symbol, 0):
            continue
        order = order_of(book, trade)
        if order is None or not _believable(order, trade):
            return book, tuple(events), trade
        book, more = _fill(book, order, trade)
        events += more
    return book, tuple(events), None


def order_of(book: Book, trade: Trade) -> Order | None:
    """Trades carry ids of ordinary orders; a conditional order's own id is from another range and may look the same."""
    for order in book.orders_of(trade.symbol):
        if trade.venue_order_id == (order.spawned_order_id if order.conditional else order.venue_order_id):
            return order
    return None


def pass_over(book: Book, trade: Trade) -> Book:
    """Leave a trade that is none of ours behind, its effect on the wallet booked. The account check that is then due
    shows what it did to the position (F18); what it may have taken from ours is kept for that."""
    position = book.positions.get(trade.symbol)
    if position and position.quantity and trade.side is position.side.opposite and trade.price > 0:
        kept = msgspec.structs.replace(position, foreign=(*position.foreign, trade)[-RECENT:])
        book = with_position(book, kept)
    return _taken_in(book, trade, due="reconcile")


def adopt(book: Book, symbol: str, at_venue: Decimal) -> Outcome:
    """The venue is the truth (F18): where it holds less than the book (signed base quantity), the foreign trades that
    took it are an exit of ours, oldest first. What they do not explain stays a drift."""
    position = book.positions[symbol]
    held = at_venue if position.side is OrderSide.BUY else -at_venue
    events = NOTHING
    for trade in position.foreign:
        part = min(trade.quantity, position.quantity - max(held, ZERO))
        if part <= 0:
            break
        position, event = _foreign_exit(book, position, _part(position, trade, part))
        events = (*events, event)
    return with_position(book, msgspec.structs.replace(position, foreign=())), events


def _foreign_exit(book: Book, position: Position, trade: Trade) -> tuple[Position, Draft]:
    identity = f"external{trade.venue_order_id}"
    payload = _filled(position, trade, Role.EXIT, identity)
    key = f"{identity}:filled:{trade.trade_id}"
    event = Draft(payload, key, position.symbol, position.timeframe, position.decision_bar_ts_ms)
    position = _booked(position, Role.EXIT, trade)
    reason = position.exit_reason if position.quantity else EXTERNAL
    return msgspec.structs.replace(position, exit_reason=reason), event


def _part(position: Position, trade: Trade, quantity: Decimal) -> Trade:
    """The share of a trade that closed something of ours; the venue states its profit only for the whole."""
    if quantity == trade.quantity:
        return trade
    gain = (trade.price - position.entry_price) * quantity
    return msgspec.structs.replace(
        trade,
        quantity=quantity,
        fee=trade.fee * quantity / trade.quantity,
        realized_pnl=gain if position.side is OrderSide.BUY else -gain,
    )


def _taken_in(book: Book, trade: Trade, *, due: Literal["fill", "reconcile"]) -> Book:
    wallet = None if book.wallet_expected is None else book.wallet_expected + trade.realized_pnl - trade.fee
    return msgspec.structs.replace(
        book,
        last_trade_ids={**book.last_trade_ids, trade.symbol: trade.trade_id},
        wallet_expected=wallet,
        account_due=book.account_due or due,
    )


def _believable(order: Order, trade: Trade) -> bool:
    return trade.price > 0 and trade.quantity > 0 and trade.side is order.side


def _fill(book: Book, order: Order, trade: Trade) -> Outcome:
    position = book.positions[order.symbol]
    payload = _filled(position, trade, order.role, order.client_order_id)
    event = order_event(book, order, payload, f"filled:{trade.trade_id}")
    book = with_position(_taken_in(book, trade, due="fill"), _booked(position, order.role, trade))
    order = msgspec.structs.replace(order, filled=order.filled + trade.quantity)
    book, ended = settle_order(with_order(book, order), order)
    return book, (event, *ended)


def _filled(position: Position, trade: Trade, role: Role, identity: str) -> OrderFilled:
    return OrderFilled(
        client_order_id=identity,
        decision_id=position.decision_id,
        decision_bar_ts_ms=position.decision_bar_ts_ms,
        role=role,
        trade_id=str(trade.trade_id),
        side=trade.side,
        quantity=trade.quantity,
        price=trade.price,
        fee=trade.fee,
        realized_pnl=trade.realized_pnl,
        market_ts_ms=trade.market_ts_ms,
        sequence=position.fills.get(role, 0),
    )


def _booked(position: Position, role: Role, trade: Trade) -> Position:
    notional = trade.quantity * trade.price
    position = msgspec.structs.replace(
        position,
        realized_pnl=position.realized_pnl + trade.realized_pnl,
        fees=position.fees + trade.fee,
        opened_ts_ms=position.opened_ts_ms or trade.market_ts_ms,
        last_fill_ts_ms=trade.market_ts_ms,
        fills={**position.fills, role.value: position.fills.get(role, 0) + 1},
    )
    if role is Role.ENTRY:
        return msgspec.structs.replace(
            position,
            quantity=position.quantity + trade.quantity,
            entry_quantity=position.entry_quantity + trade.quantity,
            entry_notional=position.entry_notional + notional,
        )
    return msgspec.structs.replace(
        position,
        quantity=max(position.quantity - trade.quantity, ZERO),
        exit_quantity=position.exit_quantity + trade.quantity,
        exit_notional=position.exit_notional + notional,
        exit_role=role,
    )

"""The venue's trades are the only source of fills (F01, F24)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from executor_svc.core.book import ZERO, Book, Draft, Order, Outcome, Position, order_event, with_order, with_position
from executor_svc.core.reports import settle_order
from executor_svc.core.venue_facts import Trade
from quantum_common.contracts import OrderFilled
from quantum_common.domain.signal import Role


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
    """Leave a trade that is none of ours behind; the position check then shows what it did to the account."""
    return msgspec.structs.replace(book, last_trade_ids={**book.last_trade_ids, trade.symbol: trade.trade_id})


def _believable(order: Order, trade: Trade) -> bool:
    return trade.price > 0 and trade.quantity > 0 and trade.side is order.side


def _fill(book: Book, order: Order, trade: Trade) -> Outcome:
    position = book.positions[order.symbol]
    event = _event(book, order, position, trade)
    book = with_position(pass_over(book, trade), _booked(position, order.role, trade))
    wallet = None if book.wallet_expected is None else book.wallet_expected + trade.realized_pnl - trade.fee
    book = msgspec.structs.replace(book, wallet_expected=wallet, account_due=book.account_due or "fill")
    order = msgspec.structs.replace(order, filled=order.filled + trade.quantity)
    book, ended = settle_order(with_order(book, order), order)
    return book, (event, *ended)


def _event(book: Book, order: Order, position: Position, trade: Trade) -> Draft:
    payload = OrderFilled(
        client_order_id=order.client_order_id,
        decision_id=position.decision_id,
        decision_bar_ts_ms=position.decision_bar_ts_ms,
        role=order.role,
        trade_id=str(trade.trade_id),
        side=trade.side,
        quantity=trade.quantity,
        price=trade.price,
        fee=trade.fee,
        realized_pnl=trade.realized_pnl,
        market_ts_ms=trade.market_ts_ms,
        sequence=position.fills.get(order.role, 0),
    )
    return order_event(book, order, payload, f"filled:{trade.trade_id}")


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

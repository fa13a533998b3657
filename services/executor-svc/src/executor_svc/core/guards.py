"""The only submit point's invariants. Whatever made the order, it is not sent unless all of them hold."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from executor_svc.core.book import ZERO, Book, Market, Order, Position
from executor_svc.core.sizing import on_grid
from quantum_common.domain.signal import OrderSide, Role

MAX_TRIGGER_DISTANCE = Decimal("0.5")
"""Fraction of the entry price. A larger distance is a price taken for a fraction (F12)."""

DRIFTS = ("POSITION_DRIFTED", "WALLET_DRIFTED", "FOREIGN_ORDERS")
REASONS = (
    *DRIFTS, "NO_POSITION", "QUANTITY_GRID", "INTENT_MISMATCH", "POSITION_OPEN", "EXPIRED", "KILL_SWITCH",
    "TRADING_STATE_UNKNOWN", "ACCOUNT_NOT_TRUSTED", "MIN_QUANTITY", "MIN_NOTIONAL", "NO_PRICE", "UNKNOWN_SYMBOL",
    "QUANTITY_EXCEEDS_POSITION", "SECOND_STOP", "TRIGGER_MISSING", "TRIGGER_GRID", "TRIGGER_SIDE", "TRIGGER_DISTANCE",
)  # fmt: skip
"""Every code of our own with which an order is refused: labels of metrics. Other codes are the venue's."""

STOPPED = frozenset({"REDUCING", "HALTED"})


class SubmitContext(msgspec.Struct, frozen=True):
    """What is known at the last step before the order."""

    market_now_ms: int
    trading_state: str
    """ACTIVE, REDUCING, HALTED as the governer has it right now; empty where it has written none."""
    account_trusted: bool
    """Leverage, margin and position mode were read back and are what they should be; reconciled since the start."""


def refusal(book: Book, order: Order, market: Market, context: SubmitContext) -> str:
    """Reason code for which the order must not be sent; empty = send it."""
    position = book.positions.get(order.symbol)
    if position is None:
        return "NO_POSITION"
    if not on_grid(order.quantity, market.step_size) or order.quantity <= 0:
        return "QUANTITY_GRID"
    if order.role is Role.ENTRY:
        return _entry(book, order, position, market, context)
    return _reduction(book, order, position, market)


def _entry(book: Book, order: Order, position: Position, market: Market, context: SubmitContext) -> str:
    if order.reduce_only or order.order_type != "market" or order.side is not position.side:
        return "INTENT_MISMATCH"
    if position.quantity or position.entry_quantity or len(book.orders_of(order.symbol)) > 1:
        return "POSITION_OPEN"
    if context.market_now_ms > position.expires_at_ms:
        return "EXPIRED"
    if context.trading_state != "ACTIVE":
        return "KILL_SWITCH" if context.trading_state in STOPPED else "TRADING_STATE_UNKNOWN"
    if not context.account_trusted:
        return "ACCOUNT_NOT_TRUSTED"
    if reason := drifted(book):
        return reason
    if order.quantity < market.min_quantity:
        return "MIN_QUANTITY"
    return ""


def drifted(book: Book) -> str:
    """Why the book and the venue disagree; empty = they do not."""
    if book.drifts:
        return "POSITION_DRIFTED"
    if book.wallet_drift:
        return "WALLET_DRIFTED"
    return "FOREIGN_ORDERS" if book.foreign_orders else ""


def _reduction(book: Book, order: Order, position: Position, market: Market) -> str:
    if not order.reduce_only or order.side is not position.side.opposite:
        return "INTENT_MISMATCH"
    if not ZERO < order.quantity - order.filled <= position.quantity:
        return "QUANTITY_EXCEEDS_POSITION"
    if order.role is Role.STOP and len(book.orders_of(order.symbol, Role.STOP)) > 1:
        return "SECOND_STOP"
    if (order.trigger_price is None) == order.conditional:
        return "TRIGGER_MISSING"
    if order.trigger_price is not None:
        return bad_trigger(position, order.role, order.trigger_price, market)
    return ""


def bad_trigger(position: Position, role: Role, price: Decimal, market: Market) -> str:
    """Side and distance of a stop or target against the entry price (F12)."""
    if price <= 0 or not on_grid(price, market.tick_size):
        return "TRIGGER_GRID"
    above = price > position.entry_price
    if above != ((position.side is OrderSide.BUY) == (role is Role.TAKE_PROFIT)):
        return "TRIGGER_SIDE"
    if abs(price / position.entry_price - 1) > MAX_TRIGGER_DISTANCE:
        return "TRIGGER_DISTANCE"
    return ""

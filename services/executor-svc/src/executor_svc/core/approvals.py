"""An approval becomes an entry order, the wish to close, or a refusal with its reason."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from executor_svc.core.book import (
    Book,
    Draft,
    Market,
    Order,
    OrderType,
    Outcome,
    Position,
    client_order_id,
    order_event,
    with_order,
    with_position,
)
from executor_svc.core.guards import MAX_TRIGGER_DISTANCE, drifted
from executor_svc.core.sizing import entry_quantity, to_decimal
from executor_svc.core.venue_facts import Quote
from quantum_common.contracts import Envelope, OrderRejected, OrderSubmitted, PositionApproved
from quantum_common.domain.signal import Action, Intent, OrderSide, Role

SIDE_OF: dict[Action, OrderSide] = {Action.BUY: OrderSide.BUY, Action.SELL: OrderSide.SELL}


class Rules(msgspec.Struct, frozen=True):
    """Settings the core needs."""

    horizon_bars: int
    """Bars after the decision bar at whose close a position is closed."""
    entry_price_margin: Decimal
    """Fraction by which the fill may be above the price looked at."""
    unfilled_trigger_ms: int | None
    """A stop that triggered and has not filled for so long (wall clock) is replaced by a market close (F29); None =
    no deadline, as in a replay."""
    max_protect_failures: int = 3


def is_repeat(book: Book, event: Envelope[PositionApproved]) -> bool:
    """True when this approval changes nothing (F14): an entry whose decision bar was handled for its symbol, or a
    close older than the position it would end."""
    if event.payload.intent is Intent.OPEN:
        return event.bar_ts_ms <= book.handled_bars.get(event.symbol, -1)
    position = book.positions.get(event.symbol)
    return position is None or event.bar_ts_ms < position.decision_bar_ts_ms


def approve_open(
    book: Book,
    event: Envelope[PositionApproved],
    market: Market | None,
    quote: Quote,
    rules: Rules,
    *,
    market_now_ms: int,
    wall_now_ms: int,
) -> Outcome:
    """Write the intent of the entry, or refuse it. Nothing is sent here."""
    if is_repeat(book, event):
        return book, ()
    approval = event.payload
    if reason := _refusal(book, event, market, market_now_ms):
        return refuse_open(book, event, reason)
    assert market is not None
    side = SIDE_OF[approval.action]
    margin = rules.entry_price_margin
    quantity, reason = entry_quantity(market, quote, side, approval.position_size_usd, margin)
    if reason:
        return refuse_open(book, event, reason, f"{quantity} for {approval.position_size_usd} USD")
    position = Position(
        symbol=event.symbol,
        timeframe=event.timeframe,
        decision_id=approval.decision_id,
        decision_bar_ts_ms=event.bar_ts_ms,
        side=side,
        approved_usd=approval.position_size_usd,
        expires_at_ms=approval.expires_at_ms,
        stop_distance_fraction=to_decimal(approval.stop_distance_fraction),
        take_profit_distance_fraction=to_decimal(approval.take_profit_distance_fraction),
        funding_checked_ts_ms=market_now_ms,
    )
    book = with_position(_handled(book, event), position)
    return new_order(book, position, Role.ENTRY, side, "market", quantity, None, wall_now_ms)


def _refusal(book: Book, event: Envelope[PositionApproved], market: Market | None, market_now_ms: int) -> str:
    approval = event.payload
    if market is None:
        return "UNKNOWN_SYMBOL"
    if approval.action not in SIDE_OF:
        return "INTENT_MISMATCH"
    if market_now_ms > approval.expires_at_ms:
        return "EXPIRED"
    if event.symbol in book.positions or book.orders_of(event.symbol):
        return "POSITION_OPEN"
    if reason := drifted(book):
        return reason
    distances = (approval.stop_distance_fraction, approval.take_profit_distance_fraction)
    if not all(0 < distance <= MAX_TRIGGER_DISTANCE for distance in distances):
        return "TRIGGER_DISTANCE"
    return ""


def approve_close(book: Book, event: Envelope[PositionApproved]) -> Outcome:
    """Wish the present position closed. Without one, or when it is being closed already, nothing is left to do."""
    if is_repeat(book, event):
        return book, ()
    return want_exit(book, event.symbol, "opposite_signal"), ()


def flatten(book: Book) -> Book:
    """Wish every position closed."""
    for symbol in sorted(book.positions):
        book = want_exit(book, symbol, "flatten")
    return book


def want_exit(book: Book, symbol: str, reason: str) -> Book:
    """The first reason stays: it is the one that acted."""
    position = book.positions.get(symbol)
    if position is None or position.exit_reason or position.closed:
        return book
    return with_position(book, msgspec.structs.replace(position, exit_reason=reason))


def new_order(
    book: Book,
    position: Position,
    role: Role,
    side: OrderSide,
    order_type: OrderType,
    quantity: Decimal,
    trigger: Decimal | None,
    wall_now_ms: int,
) -> Outcome:
    """Add an order in state SUBMITTING, with its event."""
    attempt = position.attempts.get(role, 0)
    position = msgspec.structs.replace(position, attempts={**position.attempts, role.value: attempt + 1})
    order = Order(
        client_order_id=client_order_id(book.account, position.decision_id, role, attempt),
        symbol=position.symbol,
        role=role,
        attempt=attempt,
        side=side,
        order_type=order_type,
        quantity=quantity,
        trigger_price=trigger,
        reduce_only=role is not Role.ENTRY,
        submitted_wall_ms=wall_now_ms,
    )
    book = with_order(with_position(book, position), order)
    return book, (_submitted(book, order, "submitted"),)


def entry_again(
    book: Book, order: Order, market: Market, quote: Quote, rules: Rules, wall_now_ms: int
) -> tuple[Book, tuple[Draft, ...], str]:
    """Write the intent of an entry that never arrived again, at a size that today's prices allow (F19): never larger
    than approved, nor than announced. The last value is the filter it fails ("" = none)."""
    approved_usd = book.positions[order.symbol].approved_usd
    quantity, reason = entry_quantity(market, quote, order.side, approved_usd, rules.entry_price_margin)
    if reason:
        return book, (), reason
    again = msgspec.structs.replace(order, quantity=min(quantity, order.quantity), submitted_wall_ms=wall_now_ms)
    book = with_order(book, again)
    if again.quantity == order.quantity:
        return book, (), ""
    return book, (_submitted(book, again, f"submitted:{again.quantity}"),), ""


def _submitted(book: Book, order: Order, key: str) -> Draft:
    payload = OrderSubmitted(
        order.client_order_id,
        book.positions[order.symbol].decision_id,
        order.role,
        order.side,
        order.order_type,
        order.quantity,
        order.trigger_price,
        order.reduce_only,
    )
    return order_event(book, order, payload, key)


def refuse_open(book: Book, event: Envelope[PositionApproved], reason: str, detail: str = "") -> Outcome:
    """No order is made of this approval; the governer hears why."""
    identity = client_order_id(book.account, event.payload.decision_id, Role.ENTRY, 0)
    payload = OrderRejected(identity, event.payload.decision_id, Role.ENTRY, reason, detail)
    draft = Draft(payload, f"{identity}:rejected", event.symbol, event.timeframe, event.bar_ts_ms)
    return _handled(book, event), (draft,)


def _handled(book: Book, event: Envelope[PositionApproved]) -> Book:
    return msgspec.structs.replace(book, handled_bars={**book.handled_bars, event.symbol: event.bar_ts_ms})

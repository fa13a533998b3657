"""What the venue says of an order moves it through the table of states."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from executor_svc.core.approvals import want_exit
from executor_svc.core.book import (
    NOTHING,
    ZERO,
    Book,
    Order,
    Outcome,
    Position,
    order_event,
    retire,
    with_order,
    with_position,
    without_position,
)
from executor_svc.core.states import AFTER_REPORT, TERMINAL, OrderState, ReportStatus
from quantum_common.contracts import OrderAccepted, OrderCanceled, OrderRejected
from quantum_common.domain.signal import Role

WOULD_TRIGGER = "WOULD_TRIGGER_IMMEDIATELY"
"""Reason code of a conditional order whose trigger the market has passed already."""
RESIZED, POSITION_CLOSED = "resized", "position_closed"
OUR_REASONS = frozenset({RESIZED, POSITION_CLOSED})
"""Why we cancel a protective order ourselves."""
PROTECTIVE = frozenset({Role.STOP, Role.TAKE_PROFIT})


class OrderReport(msgspec.Struct, frozen=True):
    client_order_id: str
    status: ReportStatus
    venue_order_id: str
    executed: Decimal | None = None
    """Base quantity executed so far; None where the venue does not say (a conditional order)."""
    spawned_order_id: str = ""
    reason: str = ""
    detail: str = ""


def take_report(book: Book, report: OrderReport, wall_now_ms: int) -> Outcome:
    """Apply a report. One on an order that is over (or not ours) changes nothing."""
    order = book.orders.get(report.client_order_id)
    if order is None:
        return book, ()
    if report.status is ReportStatus.REJECTED and order.state is OrderState.SUBMITTING:
        return refuse(book, order, report.reason, report.detail)
    state = AFTER_REPORT[order.state, report.status]
    known = msgspec.structs.replace(
        order,
        state=state,
        venue_order_id=order.venue_order_id or report.venue_order_id,
        spawned_order_id=order.spawned_order_id or report.spawned_order_id,
        triggered_wall_ms=order.triggered_wall_ms or (wall_now_ms if report.spawned_order_id else 0),
        reason=order.reason or report.reason,
        executed=_executed(order, report) if state is OrderState.SETTLING else None,
    )
    book = with_order(book, known)
    events = NOTHING
    if state is OrderState.OPEN:
        book = _count_failure(book, known, 0)
    if order.state is OrderState.SUBMITTING:
        decision = book.positions[order.symbol].decision_id
        payload = OrderAccepted(order.client_order_id, decision, order.role, known.venue_order_id)
        events = (order_event(book, order, payload, "accepted"),)
    book, ended = settle_order(book, known)
    return book, (*events, *ended)


def _executed(order: Order, report: OrderReport) -> Decimal | None:
    if report.executed is not None:
        return max(report.executed, order.executed or ZERO)
    if order.executed is not None:
        return order.executed
    # A filled conditional order executed all of it through the order it became; one that ended untriggered, nothing.
    return order.quantity if report.status is ReportStatus.FILLED else order.filled


def settle_order(book: Book, order: Order) -> Outcome:
    """End an order whose executed quantity has been taken in."""
    complete = order.filled >= order.quantity
    over = order.state is OrderState.SETTLING and order.executed is not None and order.filled >= order.executed
    if not (complete or over):
        return book, ()
    state = OrderState.FILLED if complete else OrderState.CANCELED
    return _end(book, msgspec.structs.replace(order, state=state, executed=order.filled))


def refuse(book: Book, order: Order, reason: str, detail: str = "") -> Outcome:
    """The order was never accepted, and never will be."""
    return _end(book, msgspec.structs.replace(order, state=OrderState.REJECTED, reason=reason), detail)


def resubmit(book: Book, order: Order, wall_now_ms: int) -> Book:
    """Write the intent again before sending again: the receive window starts anew."""
    return with_order(book, msgspec.structs.replace(order, submitted_wall_ms=wall_now_ms))


def _end(book: Book, order: Order, detail: str = "") -> Outcome:
    assert order.state in TERMINAL
    position = book.positions[order.symbol]
    events = NOTHING
    if order.state is OrderState.REJECTED:
        payload = OrderRejected(order.client_order_id, position.decision_id, order.role, order.reason, detail)
        events = (order_event(book, order, payload, "rejected"),)
    elif order.state is OrderState.CANCELED:
        reason = order.reason or "ended_at_venue"
        canceled = OrderCanceled(order.client_order_id, position.decision_id, order.role, reason)
        events = (order_event(book, order, canceled, "canceled"),)
    book = retire(book, order)
    return _aftermath(book, order, position), events


def _aftermath(book: Book, order: Order, position: Position) -> Book:
    if order.role is Role.ENTRY and not position.entry_quantity and not book.orders_of(order.symbol):
        return without_position(book, order.symbol)
    if order.role is Role.EXIT and order.state is OrderState.REJECTED:
        return _exit_rejected(book, order, position)
    if order.role in PROTECTIVE and order.state is not OrderState.FILLED and order.reason not in OUR_REASONS:
        book = _count_failure(book, order, position.protect_failures.get(order.role, 0) + 1)
    if order.state is OrderState.REJECTED and position.quantity:
        if order.role is Role.STOP:
            return want_exit(book, order.symbol, "unprotected")
        if order.role is Role.TAKE_PROFIT and order.reason == WOULD_TRIGGER:
            return want_exit(book, order.symbol, "take_profit")
    return book


def _count_failure(book: Book, order: Order, count: int) -> Book:
    position = book.positions[order.symbol]
    if order.role not in PROTECTIVE or position.protect_failures.get(order.role, 0) == count:
        return book
    failures = {**position.protect_failures, order.role.value: count}
    return with_position(book, msgspec.structs.replace(position, protect_failures=failures))


def _exit_rejected(book: Book, order: Order, position: Position) -> Book:
    """The next attempt waits, and the account is looked at: perhaps there is nothing left to exit from (F18)."""
    position = msgspec.structs.replace(
        position, exit_rejections=position.exit_rejections + 1, exit_rejected_wall_ms=order.submitted_wall_ms
    )
    return msgspec.structs.replace(with_position(book, position), account_due=book.account_due or "reconcile")

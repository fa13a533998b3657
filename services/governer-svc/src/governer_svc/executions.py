"""What the executor reports, taken into the risk state: pure, one event at a time."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from governer_svc.errors import InvalidExecution
from governer_svc.state import (
    BOOKED_KEPT,
    Account,
    ClosedTrade,
    OpenPosition,
    Reservation,
    RiskState,
    remember,
    roll_day,
)
from quantum_common.contracts import (
    AccountUpdated,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    TradeClosed,
)
from quantum_common.domain.signal import Action, OrderSide, Role


class Released(NamedTuple):
    """An approval that ended unfilled: its size and slot are free again."""

    decision_id: str
    reservation: Reservation


Taken = tuple[RiskState, tuple[Released, ...]]


def take_in(state: RiskState, symbol: str, event: msgspec.Struct) -> Taken:
    """State after an executions event of `symbol`, and the approvals it ended unfilled. Raises InvalidExecution."""
    handler = _HANDLERS.get(type(event))
    return handler(state, symbol, event) if handler else (state, ())


def take_in_once(state: RiskState, event_id: str, symbol: str, event: msgspec.Struct) -> Taken:
    """`take_in`, unless the event was booked before (F28).

    Only fills and closed trades add up and need their ids remembered; the others may repeat without harm.
    """
    if event_id in state.booked:
        return state, ()
    state, released = take_in(state, symbol, event)
    if isinstance(event, OrderFilled | TradeClosed):
        state = replace(state, booked=(*state.booked, event_id)[-BOOKED_KEPT:])
    return state, released


def _account_updated(state: RiskState, symbol: str, event: AccountUpdated) -> Taken:
    """The venue's newest word replaces what we worked out ourselves (F21); an older one changes nothing (F28)."""
    _require_finite(event.wallet_balance, event.equity)
    if state.account is not None and event.sequence <= state.account.sequence:
        return state, ()
    state = roll_day(state, event.as_of_ms)
    known_bar = state.account.bar_ts_ms if state.account else 0
    account = Account(
        event.wallet_balance,
        event.equity,
        event.as_of_ms,
        max(known_bar, event.bar_ts_ms),  # a restarted executor may not know the bar yet; its work on it is done
        event.sequence,
        event.min_notional_usd,
    )
    state = replace(
        state,
        account=account,
        initial_balance=event.wallet_balance if state.initial_balance is None else state.initial_balance,
        peak_equity=max(state.peak_equity, event.equity),
        day_start_equity=event.equity if state.day_start_equity is None else state.day_start_equity,
        positions={
            row.symbol: OpenPosition(row.side, row.quantity, row.entry_price, abs(row.notional_usd))
            for row in event.positions
            if row.quantity != 0
        },
    )
    return _expire(state, event.as_of_ms)


def _expire(state: RiskState, as_of_ms: int) -> Taken:
    """End approvals that the executor never submitted.

    It asks the venue and submits in one order, so an account taken after the expiry, with no order before it in the
    stream, proves that none will come.
    """
    overdue = [
        decision_id
        for decision_id, held in state.reservations.items()
        if held.order_quantity is None and as_of_ms > held.expires_at_ms
    ]
    released: tuple[Released, ...] = ()
    for decision_id in overdue:
        state, freed = _end(state, decision_id)
        released += freed
    return state, released


def _end(state: RiskState, decision_id: str) -> Taken:
    """Drop a reservation; when nothing was filled, its daily slot comes back too."""
    held = state.reservations.get(decision_id)
    if held is None:
        return state, ()
    left = {key: value for key, value in state.reservations.items() if key != decision_id}
    state = replace(state, reservations=left)
    if held.filled_quantity > 0:
        return state, ()
    if held.day == state.day:
        state = replace(state, daily_trades=max(state.daily_trades - 1, 0))
    return state, (Released(decision_id, held),)


def _submitted(state: RiskState, symbol: str, event: OrderSubmitted) -> Taken:
    held = state.reservations.get(event.decision_id)
    if event.role is not Role.ENTRY or held is None:
        return state, ()
    return _hold(state, event.decision_id, replace(held, order_quantity=event.quantity)), ()


def _hold(state: RiskState, decision_id: str, held: Reservation) -> RiskState:
    return replace(state, reservations={**state.reservations, decision_id: held})


def _filled(state: RiskState, symbol: str, event: OrderFilled) -> Taken:
    _require_finite(event.price, event.quantity)
    if event.price <= 0 or event.quantity <= 0:
        raise InvalidExecution(f"fill {event.trade_id}: quantity {event.quantity} at price {event.price}")
    signed = event.quantity if event.role is Role.ENTRY else -event.quantity
    state = _moved(state, symbol, event, signed)
    held = state.reservations.get(event.decision_id)
    if event.role is not Role.ENTRY or held is None:
        return state, ()
    held = replace(
        held,
        filled_quantity=held.filled_quantity + event.quantity,
        filled_usd=held.filled_usd + event.quantity * event.price,
    )
    state = _hold(state, event.decision_id, held)
    done = held.order_quantity is not None and held.filled_quantity >= held.order_quantity
    return _end(state, event.decision_id) if done else (state, ())


def _moved(state: RiskState, symbol: str, event: OrderFilled, signed: Decimal) -> RiskState:
    """The position after a fill, until the account update right behind it says what the venue has."""
    present = state.positions.get(symbol)
    quantity = (present.quantity if present else Decimal(0)) + signed
    if quantity <= 0:
        return _without_position(state, symbol)
    if present is None:
        moved = OpenPosition(event.side, quantity, event.price, quantity * event.price)
    else:
        moved = replace(present, quantity=quantity, notional_usd=quantity * event.price)
    return replace(state, positions={**state.positions, symbol: moved})


def _without_position(state: RiskState, symbol: str) -> RiskState:
    return replace(state, positions={name: row for name, row in state.positions.items() if name != symbol})


def _entry_ended(state: RiskState, symbol: str, event: OrderCanceled | OrderRejected) -> Taken:
    return _end(state, event.decision_id) if event.role is Role.ENTRY else (state, ())


def _trade_closed(state: RiskState, symbol: str, event: TradeClosed) -> Taken:
    """History, cooldown and exposure. The balance follows with the account update, from the venue alone (F21)."""
    _require_finite(event.pnl, event.quantity, event.entry_price)
    trade = ClosedTrade(
        symbol,
        Action.BUY if event.side is OrderSide.BUY else Action.SELL,
        event.entry_price,
        event.exit_price,
        event.quantity * event.entry_price,
        event.pnl,
        event.closed_ts_ms,
    )
    state = _without_position(remember(state, trade), symbol)
    return _end(state, event.decision_id)


def _require_finite(*numbers: Decimal) -> None:
    if not all(number.is_finite() for number in numbers):
        raise InvalidExecution(f"not a finite number among {', '.join(map(str, numbers))}")


_HANDLERS: dict[type[msgspec.Struct], Callable[[RiskState, str, Any], Taken]] = {
    AccountUpdated: _account_updated,
    OrderSubmitted: _submitted,
    OrderFilled: _filled,
    OrderCanceled: _entry_ended,
    OrderRejected: _entry_ended,
    TradeClosed: _trade_closed,
}
"""The other executions events (accepted, funding, drift) leave the risk state as it is."""

"""What happened at the venue. Only what the venue confirmed becomes a fill."""

from decimal import Decimal
from typing import Literal

import msgspec

from quantum_common.domain.signal import OrderSide, Role


class OrderSubmitted(msgspec.Struct, frozen=True):
    """An intent written before the request leaves."""

    client_order_id: str
    decision_id: str
    role: Role
    side: OrderSide
    order_type: Literal["market", "limit", "stop_market", "take_profit_market"]
    quantity: Decimal
    """Base asset."""
    trigger_price: Decimal | None
    reduce_only: bool


class OrderAccepted(msgspec.Struct, frozen=True):
    client_order_id: str
    decision_id: str
    role: Role
    venue_order_id: str


class OrderFilled(msgspec.Struct, frozen=True):
    """One trade of an order, as the venue reports it."""

    client_order_id: str
    decision_id: str
    decision_bar_ts_ms: int
    role: Role
    trade_id: str
    side: OrderSide
    quantity: Decimal
    price: Decimal
    fee: Decimal
    """Quote currency, positive = paid."""
    realized_pnl: Decimal
    """Of the closed part, gross of fees; 0 for an opening fill."""
    market_ts_ms: int
    sequence: int
    """0, 1, 2 … per decision and role, in venue order."""


class OrderCanceled(msgspec.Struct, frozen=True):
    client_order_id: str
    decision_id: str
    role: Role
    reason: str


class OrderRejected(msgspec.Struct, frozen=True):
    client_order_id: str
    decision_id: str
    role: Role
    reason: str
    """Code: venue error code or our own filter's name."""
    detail: str


class TradeClosed(msgspec.Struct, frozen=True):
    """A position from its first to its last fill."""

    decision_id: str
    decision_bar_ts_ms: int
    side: OrderSide
    """Side of the entry."""
    quantity: Decimal
    entry_price: Decimal
    """Average, quote currency."""
    exit_price: Decimal
    fees: Decimal
    funding: Decimal
    """Received positive, paid negative."""
    pnl: Decimal
    """Realised, net of fees and funding."""
    exit_role: Role
    exit_reason: str
    """stop, take_profit, time_stop, opposite_signal, unprotected, flatten, external."""
    opened_ts_ms: int
    closed_ts_ms: int


class FundingPaid(msgspec.Struct, frozen=True):
    amount: Decimal
    """Received positive, paid negative; quote currency."""
    market_ts_ms: int


class AccountPosition(msgspec.Struct, frozen=True):
    symbol: str
    side: OrderSide
    quantity: Decimal
    entry_price: Decimal
    notional_usd: Decimal
    unrealised_pnl: Decimal


class AccountUpdated(msgspec.Struct, frozen=True):
    """The venue's account after the executor's work on a bar, or after a fill."""

    cause: Literal["start", "bar", "fill", "reconcile"]
    wallet_balance: Decimal
    equity: Decimal
    """Wallet balance plus unrealised profit."""
    positions: tuple[AccountPosition, ...]
    as_of_ms: int
    """Market time at which the venue was asked."""
    bar_ts_ms: int
    """Newest bar whose housekeeping (time stops, exits) the executor has finished."""
    sequence: int
    """Grows by one per update of the account."""
    min_notional_usd: dict[str, Decimal]
    """Venue's minimum order notional per tradable symbol."""


class PositionDrifted(msgspec.Struct, frozen=True):
    """Venue and book disagree: no new entries until they agree again."""

    symbol_at_venue: str
    quantity_expected: Decimal
    quantity_at_venue: Decimal
    resolved: bool

"""The account's book: everything the executor must not forget, versioned whole."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from executor_svc.core.states import OrderState
from executor_svc.core.venue_facts import AccountSnapshot, Trade
from quantum_common.contracts import TradeClosed, content_id
from quantum_common.domain.signal import OrderSide, Role

ZERO = Decimal(0)
RECENT = 20
"""Finished orders and trades kept for the HTTP surface; the ledger keeps all of them."""

OrderType = Literal["market", "stop_market", "take_profit_market"]


class Market(msgspec.Struct, frozen=True):
    """The venue's filters of a symbol."""

    symbol: str
    tick_size: Decimal
    step_size: Decimal
    min_quantity: Decimal
    max_quantity: Decimal
    min_notional_usd: Decimal


class Order(msgspec.Struct, frozen=True):
    """An order of ours. Its key at the venue is (client order id, conditional)."""

    client_order_id: str
    symbol: str
    role: Role
    attempt: int
    side: OrderSide
    order_type: OrderType
    quantity: Decimal
    trigger_price: Decimal | None
    reduce_only: bool
    submitted_wall_ms: int
    """Wall clock of the last commit of the intent to send: starts the venue's receive window."""
    state: OrderState = OrderState.SUBMITTING
    venue_order_id: str = ""
    spawned_order_id: str = ""
    """Ordinary order that a triggered conditional one became."""
    triggered_wall_ms: int = 0
    """Wall clock at which the trigger was first seen; 0 = not triggered."""
    filled: Decimal = ZERO
    executed: Decimal | None = None
    """Base quantity the venue says was executed, once it is over; None while unknown."""
    reason: str = ""
    """Why it was cancelled or rejected."""

    @property
    def conditional(self) -> bool:
        return self.order_type != "market"

    @property
    def resting(self) -> bool:
        """Accepted, waiting for its trigger: nothing to do."""
        return self.state is OrderState.OPEN and self.conditional and not self.spawned_order_id


class Position(msgspec.Struct, frozen=True):
    """From the approval of an entry to the last order of its exit."""

    symbol: str
    timeframe: str
    decision_id: str
    decision_bar_ts_ms: int
    side: OrderSide
    approved_usd: Decimal
    expires_at_ms: int
    """Market time after which the entry may no longer be sent."""
    stop_distance_fraction: Decimal
    take_profit_distance_fraction: Decimal
    quantity: Decimal = ZERO
    """Open base quantity, unsigned."""
    entry_quantity: Decimal = ZERO
    entry_notional: Decimal = ZERO
    exit_quantity: Decimal = ZERO
    exit_notional: Decimal = ZERO
    realized_pnl: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO
    opened_ts_ms: int = 0
    last_fill_ts_ms: int = 0
    exit_reason: str = ""
    """Set = the position is to be closed at market, for this reason."""
    exit_role: Role | None = None
    """Role of the last exit fill."""
    fills: dict[str, int] = {}
    """Fills taken in, by role."""
    attempts: dict[str, int] = {}
    """Orders made, by role: numbers their ids, nothing else."""
    protect_failures: dict[str, int] = {}
    """Protective orders in a row that were rejected or ended at the venue without us, by role."""
    exit_rejections: int = 0
    exit_rejected_wall_ms: int = 0
    """When the exit rejected last was sent: the next one waits (wall clock)."""
    foreign: tuple[Trade, ...] = ()
    """Reducing trades on the symbol that are from no order of ours and not (yet) booked as an exit."""
    closed: bool = False
    """TradeClosed is out; what is left are orders to be cancelled."""
    funding_checked_ts_ms: int = 0
    """Market time up to which funding payments were asked for."""

    @property
    def entry_price(self) -> Decimal:
        return self.entry_notional / self.entry_quantity if self.entry_quantity else ZERO


class Book(msgspec.Struct, frozen=True):
    account: str
    bar_ts_ms: int = -1
    """Newest bar (open time) whose housekeeping is finished."""
    account_sequence: int = 0
    drift_sequence: int = 0
    positions: dict[str, Position] = {}
    orders: dict[str, Order] = {}
    """Live orders by client order id."""
    last_trade_ids: dict[str, int] = {}
    """Newest venue trade taken in, by symbol."""
    last_funding: dict[str, tuple[int, str]] = {}
    """(market time, payment id) of the newest funding payment taken in, by symbol."""
    handled_bars: dict[str, int] = {}
    """Decision bar of the newest entry approval handled, by symbol: a repeated one changes nothing."""
    drifts: dict[str, Decimal] = {}
    """Symbols whose quantity at the venue (signed, given) is not the book's: no new entries while there is one."""
    foreign_orders: dict[str, int] = {}
    """Open orders at the venue that are not ours, by symbol: no new entries while there are some."""
    wallet_expected: Decimal | None = None
    """Venue's wallet at the start plus everything booked since."""
    wallet_drift: Decimal = ZERO
    """Venue's wallet less the expected one, when last compared; not 0 = no new entries."""
    account_due: Literal["", "start", "fill", "reconcile"] = ""
    """Cause of an AccountUpdated that is still to be emitted."""
    snapshot: AccountSnapshot | None = None
    recent_orders: tuple[Order, ...] = ()
    recent_trades: tuple[TradeClosed, ...] = ()

    @property
    def acknowledged_trade_id(self) -> int:
        return max(self.last_trade_ids.values(), default=0)

    @property
    def unsettled(self) -> int:
        """Work that is not finished: orders neither resting nor over, positions to be closed or closed, a due
        AccountUpdated."""
        moving = sum(not order.resting for order in self.orders.values())
        ending = sum(not position.quantity or bool(position.exit_reason) for position in self.positions.values())
        return moving + ending + bool(self.account_due)

    @property
    def quiet(self) -> bool:
        """Nothing moves at the venue by our doing, though an exit may be waiting for its next attempt."""
        return all(order.resting for order in self.orders.values()) and all(
            position.quantity for position in self.positions.values()
        )

    @property
    def exposed(self) -> bool:
        return bool(self.positions or self.orders)

    def orders_of(self, symbol: str, role: Role | None = None) -> list[Order]:
        return [o for o in self.orders.values() if o.symbol == symbol and role in (None, o.role)]


class Draft(NamedTuple):
    """An event without its envelope."""

    payload: Any
    natural_key: str
    symbol: str = ""
    timeframe: str = ""
    bar_ts_ms: int = 0


Outcome = tuple[Book, tuple[Draft, ...]]
NOTHING: tuple[Draft, ...] = ()


class Unfolding:
    """A book and the events gathered while it goes through several transitions."""

    def __init__(self, book: Book) -> None:
        self.book, self.drafts = book, NOTHING

    def take(self, outcome: Outcome) -> None:
        self.book, more = outcome
        self.drafts += more


ID_PREFIX = "qt"
"""Of every order of ours at the venue."""


def client_order_id(account: str, decision_id: str, role: Role, attempt: int) -> str:
    """34 characters; Binance allows 36. The same intent always has the same id (F14)."""
    return ID_PREFIX + content_id(account, decision_id, role.value, attempt)


def with_position(book: Book, position: Position) -> Book:
    return msgspec.structs.replace(book, positions={**book.positions, position.symbol: position})


def without_position(book: Book, symbol: str) -> Book:
    return msgspec.structs.replace(book, positions={k: v for k, v in book.positions.items() if k != symbol})


def with_order(book: Book, order: Order) -> Book:
    return msgspec.structs.replace(book, orders={**book.orders, order.client_order_id: order})


def retire(book: Book, order: Order) -> Book:
    """The order is over: out of the live ones, into the recent ones."""
    live = {k: v for k, v in book.orders.items() if k != order.client_order_id}
    return msgspec.structs.replace(book, orders=live, recent_orders=(*book.recent_orders, order)[-RECENT:])


def order_event(book: Book, order: Order, payload: Any, key: str) -> Draft:
    """An event of an order, filed under the decision bar of its position."""
    position = book.positions[order.symbol]
    return Draft(
        payload,
        f"{order.client_order_id}:{key}",
        order.symbol,
        position.timeframe,
        position.decision_bar_ts_ms,
    )

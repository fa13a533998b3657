"""What the venue remembers: orders, conditional orders, trades, income, positions, symbol settings."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

Side = Literal["BUY", "SELL"]

OPEN_ORDER = frozenset({"NEW", "PARTIALLY_FILLED"})


class Order(msgspec.Struct):
    """An ordinary order. `quote` is the sum of price × quantity over its trades."""

    order_id: int
    client_order_id: str
    symbol: str
    side: Side
    type: Literal["MARKET", "LIMIT"]
    time_in_force: str
    quantity: Decimal
    price: Decimal
    reduce_only: bool
    close_position: bool
    status: str
    created_ms: int
    updated_ms: int
    filled: Decimal = Decimal(0)
    quote: Decimal = Decimal(0)
    original_type: str = ""
    """Type of the conditional order that spawned it, else its own."""

    @property
    def remaining(self) -> Decimal:
        return self.quantity - self.filled

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_ORDER


class AlgoOrder(msgspec.Struct):
    """A conditional order of the algo service; once triggered, `actual_order_id` is the ordinary order it became."""

    algo_id: int
    client_algo_id: str
    symbol: str
    side: Side
    type: Literal["STOP_MARKET", "TAKE_PROFIT_MARKET"]
    quantity: Decimal
    """0 with `close_position`."""
    trigger_price: Decimal
    reduce_only: bool
    close_position: bool
    working_type: str
    time_in_force: str
    status: str
    created_ms: int
    updated_ms: int
    trigger_ms: int = 0
    actual_order_id: int | None = None
    actual_price: Decimal = Decimal(0)

    @property
    def is_open(self) -> bool:
        return self.status == "NEW"


class Trade(msgspec.Struct, frozen=True):
    """One fill. `realized_pnl` is gross of the fee."""

    trade_id: int
    order_id: int
    symbol: str
    side: Side
    price: Decimal
    quantity: Decimal
    fee: Decimal
    realized_pnl: Decimal
    maker: bool
    time_ms: int


class Income(msgspec.Struct, frozen=True):
    """One change of the wallet: REALIZED_PNL, COMMISSION or FUNDING_FEE; received positive."""

    tran_id: int
    symbol: str
    type: str
    amount: Decimal
    time_ms: int
    trade_id: int | None = None


class Position(msgspec.Struct):
    """One-way position: quantity signed (short negative), `cost` the signed sum of price × quantity still open."""

    symbol: str
    quantity: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)
    margin: Decimal = Decimal(0)
    """Isolated wallet: set aside at entry, notional / leverage."""
    updated_ms: int = 0

    @property
    def entry_price(self) -> Decimal:
        return self.cost / self.quantity if self.quantity else Decimal(0)


class SymbolConfig(msgspec.Struct):
    """As a fresh account has it: 20 × and cross, so that a client that forgets to set them is found out."""

    symbol: str
    leverage: int = 20
    isolated: bool = False


Entity = Order | AlgoOrder | Trade | Income | Position | SymbolConfig

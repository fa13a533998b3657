"""What the venue tells us, in our words. Decimals throughout; quote currency unless said otherwise."""

from decimal import Decimal

import msgspec

from quantum_common.domain.signal import OrderSide


class Trade(msgspec.Struct, frozen=True):
    """One execution."""

    trade_id: int
    venue_order_id: str
    symbol: str
    side: OrderSide
    quantity: Decimal
    price: Decimal
    fee: Decimal
    realized_pnl: Decimal
    market_ts_ms: int


class OpenOrder(msgspec.Struct, frozen=True):
    """An order that rests at the venue, whoever made it."""

    symbol: str
    client_order_id: str
    conditional: bool
    venue_order_id: str


class Funding(msgspec.Struct, frozen=True):
    """One funding payment: received positive, paid negative."""

    symbol: str
    payment_id: str
    amount: Decimal
    market_ts_ms: int


class Quote(msgspec.Struct, frozen=True):
    """The venue's book: best first, (price, base quantity)."""

    bids: tuple[tuple[Decimal, Decimal], ...]
    asks: tuple[tuple[Decimal, Decimal], ...]


class VenuePosition(msgspec.Struct, frozen=True):
    quantity: Decimal
    """Signed: long positive, short negative."""
    notional_usd: Decimal
    """Absolute, at the mark price."""
    unrealised_pnl: Decimal


class AccountSnapshot(msgspec.Struct, frozen=True):
    wallet_balance: Decimal
    equity: Decimal
    positions: dict[str, VenuePosition]
    """Symbols with a quantity other than zero."""

    def quantity(self, symbol: str) -> Decimal:
        """Signed base quantity held; 0 when none."""
        held = self.positions.get(symbol)
        return held.quantity if held else Decimal(0)

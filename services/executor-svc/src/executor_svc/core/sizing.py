"""Quantities and prices on the venue's grid. The one place where floats become decimals."""

from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal

from executor_svc.core.book import ZERO, Market
from executor_svc.core.venue_facts import Quote
from quantum_common.domain.signal import OrderSide


def to_decimal(fraction: float) -> Decimal:
    """The decimal that the float prints as."""
    return Decimal(repr(fraction))


def worst_price(quote: Quote, side: OrderSide, notional_usd: Decimal) -> Decimal:
    """Price of the last level a market order of this notional reaches; 0 when the book is empty.

    A sell's notional is largest at the best bid. Beyond the shown depth the last shown level counts.
    """
    if side is OrderSide.SELL:
        return quote.bids[0][0] if quote.bids else ZERO
    left, price = notional_usd, ZERO
    for price, quantity in quote.asks:
        left -= price * quantity
        if left <= 0:
            break
    return price


def entry_quantity(
    market: Market, quote: Quote, side: OrderSide, approved_usd: Decimal, margin: Decimal
) -> tuple[Decimal, str]:
    """Base quantity, rounded down to the step, and the filter it fails ("" = none).

    `margin` (fraction) allows for a book that moves between the look and the order: the fill must not exceed the
    approval (F19).
    """
    price = worst_price(quote, side, approved_usd) * (1 + margin)
    if price <= 0:
        return ZERO, "NO_PRICE"
    quantity = round_down(min(approved_usd / price, market.max_quantity), market.step_size)
    if quantity < market.min_quantity or quantity <= 0:
        return quantity, "MIN_QUANTITY"
    if quantity * price / (1 + margin) < market.min_notional_usd:
        return quantity, "MIN_NOTIONAL"
    return quantity, ""


def round_down(value: Decimal, step: Decimal) -> Decimal:
    return (value / step).to_integral_value(ROUND_DOWN) * step


def on_grid(value: Decimal, step: Decimal) -> bool:
    return value % step == 0


def trigger_price(entry_price: Decimal, side: OrderSide, distance: Decimal, *, gains: bool, tick: Decimal) -> Decimal:
    """Entry price ± distance (fraction), on the tick next to it towards the entry: never more risk than approved.

    `side` is the entry's; `gains` True = take-profit, False = stop.
    """
    up = (side is OrderSide.BUY) == gains
    raw = entry_price * (1 + distance if up else 1 - distance)
    return (raw / tick).to_integral_value(ROUND_FLOOR if up else ROUND_CEILING) * tick

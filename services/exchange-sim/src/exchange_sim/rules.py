"""What the venue accepts per symbol: tick, step, notional and leverage brackets of Binance's USD-M perpetuals.

Ticks, steps and quantity limits are those of the exchangeInfo of May 2022, minimum notionals those of March 2025,
leverage brackets (first two) those of 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

from exchange_sim.errors import VenueError

PERCENT_UP = Decimal("1.05")
PERCENT_DOWN = Decimal("0.95")
MAX_ALGO_ORDERS = 200
MAX_CLIENT_ID = 36


@dataclass(frozen=True, slots=True)
class Bracket:
    """Leverage bracket: notional from `floor` up, in USDT; rates as fractions."""

    floor: Decimal
    cap: Decimal
    leverage: int
    maintenance_rate: Decimal
    cumulative: Decimal


@dataclass(frozen=True, slots=True)
class SymbolRules:
    """Filters of one symbol. Prices in quote, quantities in base currency."""

    symbol: str
    tick: Decimal
    step: Decimal
    min_price: Decimal
    max_price: Decimal
    max_quantity: Decimal
    max_market_quantity: Decimal
    min_notional: Decimal
    brackets: tuple[Bracket, ...]
    quote: str = "USDT"

    @property
    def base(self) -> str:
        return self.symbol.removesuffix(self.quote)

    @property
    def max_leverage(self) -> int:
        return self.brackets[0].leverage

    def round_to_tick(self, price: Decimal) -> Decimal:
        return (price / self.tick).quantize(Decimal(1), ROUND_HALF_UP) * self.tick

    def price_of(self, value: float) -> Decimal:
        """A candle's price on the venue's grid: the one place where floats of the market become money."""
        return max(self.round_to_tick(Decimal(repr(value))), self.tick)

    def bracket(self, notional: Decimal) -> Bracket:
        return next((b for b in reversed(self.brackets) if notional >= b.floor), self.brackets[0])


def _brackets(first_cap: str, leverage: int, rate: str, then: tuple[str, int, str]) -> tuple[Bracket, ...]:
    cap, next_leverage, next_rate = Decimal(first_cap), then[1], Decimal(then[2])
    return (
        Bracket(Decimal(0), cap, leverage, Decimal(rate), Decimal(0)),
        Bracket(cap, Decimal(then[0]), next_leverage, next_rate, cap * (next_rate - Decimal(rate))),
    )


def _rules(symbol: str, grid: str, limits: str, min_notional: int, brackets: tuple[Bracket, ...]) -> SymbolRules:
    tick, step, low, high = (Decimal(part) for part in grid.split())
    most, most_market = (Decimal(part) for part in limits.split())
    return SymbolRules(symbol, tick, step, low, high, most, most_market, Decimal(min_notional), brackets)


_KNOWN = {
    rules.symbol: rules
    for rules in (
        #                 tick  step  min    max price     max qty, max market qty
        _rules("BTCUSDT", "0.10 0.001 556.80 4529764", "1000 120", 100,
               _brackets("300000", 150, "0.004", ("800000", 100, "0.005"))),
        _rules("ETHUSDT", "0.01 0.001 39.86 306177", "10000 2000", 20,
               _brackets("300000", 150, "0.004", ("800000", 100, "0.005"))),
        _rules("BNBUSDT", "0.010 0.01 6.600 100000", "100000 1500", 5,
               _brackets("10000", 75, "0.005", ("200000", 50, "0.006"))),
        _rules("SOLUSDT", "0.0100 1 0.4200 6857", "1000000 9000", 5,
               _brackets("50000", 100, "0.005", ("400000", 75, "0.0065"))),
        _rules("ADAUSDT", "0.00010 1 0.01740 20000", "2000000 300000", 5,
               _brackets("10000", 75, "0.005", ("50000", 50, "0.01"))),
        _rules("XRPUSDT", "0.0001 0.1 0.0143 100000", "1000000 500000", 5,
               _brackets("40000", 100, "0.005", ("80000", 75, "0.006"))),
        _rules("DOGEUSDT", "0.000010 1 0.002440 30", "10000000 2500000", 5,
               _brackets("80000", 75, "0.0065", ("150000", 50, "0.01"))),
        _rules("LTCUSDT", "0.01 0.001 3.61 100000", "10000 3000", 5,
               _brackets("10000", 75, "0.005", ("50000", 50, "0.01"))),
    )
}  # fmt: skip


def rules_for(symbol: str) -> SymbolRules:
    """Filters of `symbol`; one the table does not know gets a fine grid and conservative brackets."""
    return _KNOWN.get(symbol) or _rules(
        symbol,
        "0.00001 0.1 0.00001 1000000",
        "1000000 200000",
        5,
        _brackets("5000", 50, "0.015", ("10000", 25, "0.02")),
    )


def parse_decimal(name: str, text: str | None) -> Decimal:
    """A mandatory decimal parameter."""
    try:
        value = Decimal(text) if text else None
    except InvalidOperation:
        value = None
    if value is None or not value.is_finite():
        raise VenueError(-1102, name)
    return value


def check_quantity(rules: SymbolRules, quantity: Decimal, *, market: bool) -> None:
    """LOT_SIZE and MARKET_LOT_SIZE."""
    if quantity <= 0:
        raise VenueError(-4003)
    if _decimals(quantity) > _decimals(rules.step):
        raise VenueError(-1111)
    if quantity < rules.step:
        raise VenueError(-4004)
    if quantity > (rules.max_market_quantity if market else rules.max_quantity):
        raise VenueError(-4005)
    if quantity % rules.step:
        raise VenueError(-4023)


def check_price(rules: SymbolRules, price: Decimal) -> None:
    """PRICE_FILTER."""
    if price <= 0 or price < rules.min_price:
        raise VenueError(-4013)
    if price > rules.max_price:
        raise VenueError(-4002)
    if _decimals(price) > _decimals(rules.tick):
        raise VenueError(-1111)
    if price % rules.tick:
        raise VenueError(-4014)


def check_percent_price(rules: SymbolRules, side: str, price: Decimal, mark: Decimal) -> None:
    """PERCENT_PRICE: a buy limit not far above, a sell limit not far below the mark price."""
    if side == "BUY" and price > mark * PERCENT_UP:
        raise VenueError(-4016, rules.round_to_tick(mark * PERCENT_UP))
    if side == "SELL" and price < mark * PERCENT_DOWN:
        raise VenueError(-4024, rules.round_to_tick(mark * PERCENT_DOWN))


def check_notional(rules: SymbolRules, notional: Decimal, *, reduce_only: bool) -> None:
    """MIN_NOTIONAL, from which reducing orders are exempt."""
    if not reduce_only and notional < rules.min_notional:
        raise VenueError(-4164, rules.min_notional)


def _decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0

"""What the risk service knows of its account. Written whole, under one version, in the commit of what changed it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from governer_svc.config import Limit
from quantum_common.domain.signal import Action, OrderSide

DAY_MS = 86_400_000
HISTORY_TRADES = 100
RECENT_RESULTS = 5
CHANGES_KEPT = 50
BOOKED_KEPT = 256
"""Repeats follow each other closely: a delivery again, or an executor that redoes its last step."""

_ZERO = Decimal(0)


class OpenPosition(msgspec.Struct, frozen=True):
    """A position at the venue. `side` is that of its entry."""

    side: OrderSide
    quantity: Decimal
    entry_price: Decimal
    notional_usd: Decimal


class Reservation(msgspec.Struct, frozen=True):
    """Size and daily slot held by an approval until its order ends."""

    symbol: str
    action: Action
    size_usd: Decimal
    day: int
    expires_at_ms: int
    bar_ts_ms: int
    timeframe: str
    order_quantity: Decimal | None = None
    """Of the submitted entry order; None until there is one."""
    filled_quantity: Decimal = _ZERO
    filled_usd: Decimal = _ZERO

    @property
    def held_usd(self) -> Decimal:
        """What may still become position."""
        return max(self.size_usd - self.filled_usd, _ZERO)


class TradeResult(msgspec.Struct, frozen=True, array_like=True):
    closed_ts_ms: int
    pnl: Decimal


class ClosedTrade(msgspec.Struct, frozen=True):
    """One row of the trade history."""

    symbol: str
    action: Action
    """Of the entry."""
    entry_price: Decimal
    exit_price: Decimal
    position_size_usd: Decimal
    """Notional at entry."""
    pnl: Decimal
    """Net of fees and funding."""
    closed_ts_ms: int


class ConfigChange(msgspec.Struct, frozen=True):
    at_ms: int
    """Wall clock."""
    who: str
    why: str
    changes: dict[str, Limit]


class Account(msgspec.Struct, frozen=True):
    """The venue's last word on the account."""

    wallet_balance: Decimal
    equity: Decimal
    as_of_ms: int
    bar_ts_ms: int
    sequence: int
    min_notional_usd: dict[str, Decimal]


class RiskState(msgspec.Struct, frozen=True):
    account: Account | None = None
    initial_balance: Decimal | None = None
    peak_equity: Decimal = _ZERO
    day: int = 0
    """Days since the epoch, UTC, market clock."""
    day_start_equity: Decimal | None = None
    daily_trades: int = 0
    positions: dict[str, OpenPosition] = {}
    reservations: dict[str, Reservation] = {}
    """By decision id."""
    recent_results: dict[str, tuple[TradeResult, ...]] = {}
    """Per symbol, the last five closed trades, oldest first."""
    trade_history: tuple[ClosedTrade, ...] = ()
    """The last hundred, oldest first."""
    decided_bars: dict[str, int] = {}
    """Per symbol, the newest bar that has its verdict."""
    overrides: dict[str, Limit] = {}
    """Limits that operators changed at run time; the rest comes from the settings."""
    changes: tuple[ConfigChange, ...] = ()
    booked: tuple[str, ...] = ()
    """Ids of the last fills and closed trades taken in, oldest first."""
    flattens: int = 0
    """Flatten commands given so far: part of their decision ids."""
    lost_before: bool = False
    """The account had a state before this one, which the server lost: limits, stop, peak and day counters with it."""

    @property
    def account_bar_ts_ms(self) -> int:
        """Newest bar on which the executor has finished its work; -1 before the first account update."""
        return self.account.bar_ts_ms if self.account else -1

    @property
    def exposure_usd(self) -> Decimal:
        """Open positions and reservations together."""
        open_usd = sum((position.notional_usd for position in self.positions.values()), _ZERO)
        return open_usd + sum((held.held_usd for held in self.reservations.values()), _ZERO)

    @property
    def drawdown(self) -> Decimal:
        """Fraction of the peak equity lost; 0 before the first account update."""
        if self.account is None or self.peak_equity <= 0:
            return _ZERO
        return (self.peak_equity - self.account.equity) / self.peak_equity


def roll_day(state: RiskState, now_ms: int) -> RiskState:
    """Start a new UTC day's counters when `now_ms` (market time) has reached it. Never goes back."""
    day = now_ms // DAY_MS
    if day <= state.day:
        return state
    return replace(state, day=day, daily_trades=0, day_start_equity=None)


def remember(state: RiskState, trade: ClosedTrade) -> RiskState:
    """Add a closed trade to the history and to the symbol's last results."""
    result = TradeResult(trade.closed_ts_ms, trade.pnl)
    results = (*state.recent_results.get(trade.symbol, ()), result)[-RECENT_RESULTS:]
    return replace(
        state,
        trade_history=(*state.trade_history, trade)[-HISTORY_TRADES:],
        recent_results={**state.recent_results, trade.symbol: results},
    )


def change_limits(state: RiskState, changes: Mapping[str, Limit], *, who: str, why: str, at_ms: int) -> RiskState:
    """Record an operator's change of limits. The caller has validated it."""
    change = ConfigChange(at_ms, who, why, dict(changes))
    return replace(state, overrides={**state.overrides, **changes}, changes=(*state.changes, change)[-CHANGES_KEPT:])


LOST = "the server came back without the risk state: check positions and limits, then set trading_state ACTIVE"


def after_loss(at_ms: int) -> RiskState:
    """What an account that traded before starts with: nothing leaves until a person has looked."""
    state = RiskState(lost_before=True)
    return change_limits(state, {"trading_state": "HALTED"}, who="governer-svc", why=LOST, at_ms=at_ms)


_encoder = msgspec.json.Encoder(decimal_format="string")
_decoder = msgspec.json.Decoder(RiskState)


def encode_state(state: RiskState) -> bytes:
    return _encoder.encode(state)


def decode_state(data: bytes) -> RiskState:
    return _decoder.decode(data)

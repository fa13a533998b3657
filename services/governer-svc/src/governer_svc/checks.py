"""The risk checks, one function each, in the order in which the first failure rejects.

Everything unknown refuses. Each returns None or a refusal with its reason code and the numbers behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from governer_svc.config import RiskConfig, TradingState
from governer_svc.state import RiskState
from quantum_common.domain.signal import Action, OrderSide

MINUTE_MS = 60_000
ENTRY_SIDE = {Action.BUY: OrderSide.BUY, Action.SELL: OrderSide.SELL}


class Signal(NamedTuple):
    """A decision as the risk checks see it. `action` is text: anything but BUY, SELL and HOLD is refused."""

    decision_id: str
    symbol: str
    action: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What a signal is judged against."""

    state: RiskState
    config: RiskConfig
    now_ms: int
    """Market clock."""
    bar_ts_ms: int
    decision_ts_ms: int
    """When the bar closed."""


class Refusal(NamedTuple):
    reason: str
    detail: str


REASONS: tuple[str, ...] = (
    "APPROVED", "HOLD_SIGNAL", "INVALID_SIGNAL", "NO_EQUITY", "STALE_SIGNAL", "LOW_CONFIDENCE", "EMERGENCY_STOP_ACTIVE",
    "TRADING_HALTED", "TRADING_REDUCING", "MAX_DRAWDOWN_EXCEEDED", "DAILY_TRADE_LIMIT_REACHED",
    "DAILY_LOSS_LIMIT_REACHED", "MAX_EXPOSURE_EXCEEDED", "COOLDOWN_ACTIVE", "POSITION_OPEN", "SHORT_NOT_ALLOWED",
    "NEGATIVE_KELLY", "OPERATOR_FLATTEN",
)  # fmt: skip
"""Every code that a verdict may carry: labels of metrics."""

Check = Callable[[Signal, Facts], Refusal | None]


def exact(value: float) -> Decimal:
    """A limit as the operator wrote it: 0.15 becomes 0.15, not the nearest binary fraction."""
    return Decimal(repr(value))


def limit_usd(facts: Facts, fraction: float) -> Decimal:
    """`fraction` of the balance; 0 without an account."""
    account = facts.state.account
    return exact(fraction) * account.wallet_balance if account else Decimal(0)


def room_usd(facts: Facts) -> Decimal:
    """Exposure limit minus open positions and reservations."""
    return limit_usd(facts, facts.config.max_total_exposure_pct) - facts.state.exposure_usd


def venue_minimum_usd(signal: Signal, facts: Facts) -> Decimal | None:
    account = facts.state.account
    return account.min_notional_usd.get(signal.symbol) if account else None


def is_exit(signal: Signal, facts: Facts) -> bool:
    """Whether the signal points against an open position."""
    position = facts.state.positions.get(signal.symbol)
    if position is None or signal.action not in (Action.BUY, Action.SELL):
        return False
    return ENTRY_SIDE[Action(signal.action)] is position.side.opposite


def hold(signal: Signal, facts: Facts) -> Refusal | None:
    return Refusal("HOLD_SIGNAL", "HOLD_SIGNAL") if signal.action == Action.HOLD else None


def valid(signal: Signal, facts: Facts) -> Refusal | None:
    confidence = signal.confidence
    known = signal.action in (Action.BUY, Action.SELL)
    number = isinstance(confidence, int | float) and not isinstance(confidence, bool) and math.isfinite(confidence)
    if known and number and 0 <= confidence <= 1:
        return None
    return Refusal("INVALID_SIGNAL", f"INVALID_SIGNAL ({signal.action!r:.40}, {confidence!r:.40})")


def fresh_account(signal: Signal, facts: Facts) -> Refusal | None:
    """The executor must have told the venue's account after its work on this very bar."""
    account = facts.state.account
    if account is None:
        return Refusal("NO_EQUITY", "NO_EQUITY (no account state yet)")
    if account.bar_ts_ms < facts.bar_ts_ms:
        return Refusal("NO_EQUITY", f"NO_EQUITY (account state of bar {account.bar_ts_ms} < {facts.bar_ts_ms})")
    if account.wallet_balance <= 0 or facts.state.peak_equity <= 0:
        return Refusal("NO_EQUITY", f"NO_EQUITY (balance {account.wallet_balance:.2f})")
    if venue_minimum_usd(signal, facts) is None:
        return Refusal("NO_EQUITY", f"NO_EQUITY ({signal.symbol} is not tradable in this account)")
    return None


def young(signal: Signal, facts: Facts) -> Refusal | None:
    """A signal from the future is as unknown as an old one: some clock is wrong."""
    age_ms = facts.now_ms - facts.decision_ts_ms
    if abs(age_ms) <= facts.config.max_signal_age_ms:
        return None
    return Refusal("STALE_SIGNAL", f"STALE_SIGNAL ({age_ms / 1000:.1f}s > {facts.config.max_signal_age_s:g}s)")


def confident(signal: Signal, facts: Facts) -> Refusal | None:
    least = facts.config.min_confidence_threshold
    if signal.confidence >= least:
        return None
    return Refusal("LOW_CONFIDENCE", f"LOW_CONFIDENCE ({signal.confidence:.3f} < {least:.3f})")


def emergency_stop(signal: Signal, facts: Facts) -> Refusal | None:
    if not facts.config.emergency_stop:
        return None
    return Refusal("EMERGENCY_STOP_ACTIVE", "EMERGENCY_STOP_ACTIVE")


def not_halted(signal: Signal, facts: Facts) -> Refusal | None:
    if facts.config.trading_state is not TradingState.HALTED:
        return None
    return Refusal("TRADING_HALTED", "TRADING_HALTED")


def not_reducing(signal: Signal, facts: Facts) -> Refusal | None:
    if facts.config.trading_state is not TradingState.REDUCING:
        return None
    return Refusal("TRADING_REDUCING", "TRADING_REDUCING (exits only)")


def drawdown(signal: Signal, facts: Facts) -> Refusal | None:
    """Strictly greater: exactly at the limit still trades."""
    lost, most = facts.state.drawdown, exact(facts.config.max_drawdown_pct)
    if lost <= most:
        return None
    return Refusal("MAX_DRAWDOWN_EXCEEDED", f"MAX_DRAWDOWN_EXCEEDED ({lost:.3f} > {most:.3f})")


def daily_trades(signal: Signal, facts: Facts) -> Refusal | None:
    done, most = facts.state.daily_trades, facts.config.max_daily_trades
    if done < most:
        return None
    return Refusal("DAILY_TRADE_LIMIT_REACHED", f"DAILY_TRADE_LIMIT_REACHED ({done}/{most})")


def daily_loss(signal: Signal, facts: Facts) -> Refusal | None:
    most, account, start = facts.config.max_daily_loss_pct, facts.state.account, facts.state.day_start_equity
    if most is None:
        return None
    if account is None or start is None or start <= 0:
        return Refusal("DAILY_LOSS_LIMIT_REACHED", "DAILY_LOSS_LIMIT_REACHED (the day's first equity is unknown)")
    lost = (start - account.equity) / start
    if lost < exact(most):
        return None
    return Refusal("DAILY_LOSS_LIMIT_REACHED", f"DAILY_LOSS_LIMIT_REACHED ({lost:.3f} >= {most:.3f})")


def exposure(signal: Signal, facts: Facts) -> Refusal | None:
    """Room must hold the smallest order the venue takes."""
    return too_small(room_usd(facts), signal, facts, "room")


def too_small(size_usd: Decimal, signal: Signal, facts: Facts, name: str) -> Refusal | None:
    least = venue_minimum_usd(signal, facts)
    if least is not None and size_usd >= least and size_usd > 0:
        return None
    return Refusal("MAX_EXPOSURE_EXCEEDED", f"MAX_EXPOSURE_EXCEEDED ({name} {size_usd:.2f} < venue minimum {least})")


def cooldown(signal: Signal, facts: Facts) -> Refusal | None:
    """The newest loss among the symbol's last five closed trades must be old enough."""
    losses = [result.closed_ts_ms for result in facts.state.recent_results.get(signal.symbol, ()) if result.pnl < 0]
    if not losses:
        return None
    left_ms = max(losses) + facts.config.cooldown_after_loss_minutes * MINUTE_MS - facts.now_ms
    if left_ms <= 0:
        return None
    return Refusal("COOLDOWN_ACTIVE", f"COOLDOWN_ACTIVE ({left_ms / MINUTE_MS:.1f}m remaining)")


def position_free(signal: Signal, facts: Facts) -> Refusal | None:
    """One position per symbol, and no second approval while one is pending."""
    if signal.symbol in facts.state.positions:
        return Refusal("POSITION_OPEN", "POSITION_OPEN")
    if any(held.symbol == signal.symbol for held in facts.state.reservations.values()):
        return Refusal("POSITION_OPEN", "POSITION_OPEN (an approval is pending)")
    return None


def short_allowed(signal: Signal, facts: Facts) -> Refusal | None:
    """On a spot market SELL only closes, and there is nothing to close here."""
    if facts.config.allow_short or signal.action != Action.SELL:
        return None
    return Refusal("SHORT_NOT_ALLOWED", "SHORT_NOT_ALLOWED (spot: SELL only closes)")


ENTRY_CHECKS: tuple[Check, ...] = (
    hold,
    valid,
    fresh_account,
    young,
    confident,
    emergency_stop,
    not_halted,
    not_reducing,
    drawdown,
    daily_trades,
    daily_loss,
    exposure,
    cooldown,
    position_free,
    short_allowed,
)
"""What an entry must pass before it is sized."""

EXIT_CHECKS: tuple[Check, ...] = (valid, young, confident, not_halted)
"""Exits pass every breaker, limit and cooldown. A position we know of may be left even when the account's
numbers are old: the order is reduce-only."""

"""The joint allocation of one bar's decisions: pure, in one step with the reservation of what it grants."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_DOWN, Decimal

import msgspec
from msgspec.structs import replace

from governer_svc.checks import ENTRY_CHECKS, EXIT_CHECKS, Facts, Refusal, Signal, exact, is_exit, limit_usd, room_usd
from governer_svc.checks import too_small as refuse_too_small
from governer_svc.config import RiskConfig
from governer_svc.kelly import kelly_optimal
from governer_svc.state import Reservation, RiskState, roll_day
from quantum_common.contracts import PositionApproved, PositionRejected, content_id
from quantum_common.domain.signal import Action, Intent, OrderSide
from quantum_common.domain.timeframe import decision_ts_ms

CENT = Decimal("0.01")
_ZERO = Decimal(0)


class PositionAllocation(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one decision. Action and confidence are the decision's own, never changed (F10)."""

    decision_id: str
    symbol: str
    action: str
    confidence: float
    approved: bool
    reason: str
    """Code: APPROVED or why not."""
    detail: str
    """Code with its numbers."""
    batch_rank: int
    intent: Intent | None = None
    """None when rejected."""
    position_size_usd: Decimal = _ZERO
    """Rounded down to cents; 0 for a close."""
    position_size_pct: float = 0.0
    """Fraction of the balance."""
    risk_amount_usd: Decimal = _ZERO
    """What the stop lets the position lose."""
    kelly_optimal: float = 0.0
    """Fraction of the balance before the clamp and the cut to the room left."""
    stop_distance_fraction: float = 0.0
    take_profit_distance_fraction: float = 0.0
    expires_at_ms: int = 0
    """Market time after which no entry order may leave."""


def allocate(
    state: RiskState,
    config: RiskConfig,
    signals: Iterable[Signal],
    *,
    bar_ts_ms: int,
    timeframe: str,
    now_ms: int,
) -> tuple[RiskState, tuple[PositionAllocation, ...]]:
    """One verdict per decision of the bar, best confidence first, ties by symbol; reservations in the new state.

    `now_ms` is market time: the bar's close in a replay, the wall clock live. The order of arrival does not matter.
    """
    state = roll_day(state, now_ms)
    closed_at_ms = decision_ts_ms(bar_ts_ms, timeframe)
    verdicts = []
    for rank, signal in enumerate(sorted(signals, key=_best_first)):
        facts = Facts(state, config, now_ms, bar_ts_ms, closed_at_ms)
        verdict = _judge(signal, facts, rank)
        state = _reserve(state, verdict, bar_ts_ms, timeframe)
        verdicts.append(verdict)
    decided = {**state.decided_bars, **{verdict.symbol: bar_ts_ms for verdict in verdicts}}
    return replace(state, decided_bars=decided), tuple(verdicts)


def _best_first(signal: Signal) -> tuple[float, str]:
    usable = isinstance(signal.confidence, int | float) and math.isfinite(signal.confidence)
    return -signal.confidence if usable else math.inf, signal.symbol


def _judge(signal: Signal, facts: Facts, rank: int) -> PositionAllocation:
    closes = is_exit(signal, facts)
    for check in EXIT_CHECKS if closes else ENTRY_CHECKS:
        if refusal := check(signal, facts):
            return _rejected(signal, rank, refusal)
    return _closed(signal, facts, rank) if closes else _sized(signal, facts, rank)


def _rejected(signal: Signal, rank: int, refusal: Refusal, kelly: float = 0.0) -> PositionAllocation:
    return PositionAllocation(
        decision_id=signal.decision_id,
        symbol=signal.symbol,
        action=str(signal.action),
        confidence=signal.confidence,
        approved=False,
        reason=refusal.reason,
        detail=refusal.detail,
        batch_rank=rank,
        kelly_optimal=kelly,
    )


def _closed(signal: Signal, facts: Facts, rank: int) -> PositionAllocation:
    return PositionAllocation(
        decision_id=signal.decision_id,
        symbol=signal.symbol,
        action=signal.action,
        confidence=signal.confidence,
        approved=True,
        reason="APPROVED",
        detail="APPROVED (close)",
        batch_rank=rank,
        intent=Intent.CLOSE,
        expires_at_ms=facts.decision_ts_ms + facts.config.max_signal_age_ms,
    )


def _sized(signal: Signal, facts: Facts, rank: int) -> PositionAllocation:
    """Kelly, clamped to the largest position, cut to the room left, rounded down to cents."""
    config = facts.config
    kelly = kelly_optimal(signal.confidence, config, facts.state.trade_history)
    if kelly <= 0:
        return _rejected(signal, rank, Refusal("NEGATIVE_KELLY", f"NEGATIVE_KELLY ({kelly:.4f})"), kelly)
    fraction = min(kelly, config.max_position_size_pct)
    size_usd = min(limit_usd(facts, fraction), room_usd(facts)).quantize(CENT, ROUND_DOWN)
    if refusal := refuse_too_small(size_usd, signal, facts, "size"):
        return _rejected(signal, rank, refusal, kelly)
    return PositionAllocation(
        decision_id=signal.decision_id,
        symbol=signal.symbol,
        action=signal.action,
        confidence=signal.confidence,
        approved=True,
        reason="APPROVED",
        detail="APPROVED",
        batch_rank=rank,
        intent=Intent.OPEN,
        position_size_usd=size_usd,
        position_size_pct=float(size_usd / limit_usd(facts, 1.0)),
        risk_amount_usd=(size_usd * exact(config.risk_per_trade_pct)).quantize(CENT, ROUND_DOWN),
        kelly_optimal=kelly,
        stop_distance_fraction=config.risk_per_trade_pct,
        take_profit_distance_fraction=float(exact(config.avg_win_loss_ratio) * exact(config.risk_per_trade_pct)),
        expires_at_ms=facts.decision_ts_ms + config.max_signal_age_ms,
    )


def _reserve(state: RiskState, verdict: PositionAllocation, bar_ts_ms: int, timeframe: str) -> RiskState:
    """Size and daily slot of an approved entry are taken before the next signal is looked at (F15)."""
    if verdict.intent is not Intent.OPEN:
        return state
    held = Reservation(
        verdict.symbol,
        Action(verdict.action),
        verdict.position_size_usd,
        state.day,
        verdict.expires_at_ms,
        bar_ts_ms,
        timeframe,
    )
    return replace(
        state,
        daily_trades=state.daily_trades + 1,
        reservations={**state.reservations, verdict.decision_id: held},
    )


def flatten_all(state: RiskState, config: RiskConfig) -> tuple[RiskState, tuple[PositionAllocation, ...]]:
    """An operator's command to close every open position: one approved exit each, with ids of its own.

    No decision stands behind them, so their confidence is 0; only people come here, never a signal (F10).
    """
    state = replace(state, flattens=state.flattens + 1)
    as_of_ms = state.account.as_of_ms if state.account else 0
    exits = [
        PositionAllocation(
            decision_id=content_id("flatten", state.flattens, symbol),
            symbol=symbol,
            action=Action.SELL if position.side is OrderSide.BUY else Action.BUY,
            confidence=0.0,
            approved=True,
            reason="OPERATOR_FLATTEN",
            detail="OPERATOR_FLATTEN",
            batch_rank=rank,
            intent=Intent.CLOSE,
            expires_at_ms=as_of_ms + config.max_signal_age_ms,
        )
        for rank, (symbol, position) in enumerate(sorted(state.positions.items()))
    ]
    return state, tuple(exits)


def as_event(verdict: PositionAllocation) -> PositionApproved | PositionRejected:
    """The verdict as it travels on the bus."""
    if verdict.intent is None:
        return PositionRejected(
            verdict.decision_id,
            verdict.action,
            verdict.confidence,
            verdict.reason,
            verdict.detail,
            verdict.batch_rank,
        )
    return PositionApproved(
        verdict.decision_id,
        verdict.intent,
        Action(verdict.action),
        verdict.confidence,
        verdict.position_size_usd,
        verdict.position_size_pct,
        verdict.risk_amount_usd,
        verdict.kelly_optimal,
        verdict.stop_distance_fraction,
        verdict.take_profit_distance_fraction,
        verdict.expires_at_ms,
        verdict.batch_rank,
        verdict.reason,
    )


def log_line(verdict: PositionAllocation) -> str:
    """The documented line, which people grep for."""
    if not verdict.approved:
        return f"[GOVERNER] {verdict.symbol} REJECTED: {verdict.detail}"
    if verdict.intent is Intent.CLOSE:
        return f"[GOVERNER] {verdict.symbol} APPROVED: Close"
    return f"[GOVERNER] {verdict.symbol} APPROVED: Size=${verdict.position_size_usd:.2f}"

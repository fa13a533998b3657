"""One realistic event of every kind, every optional field set. Deterministic: no clock, no randomness."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from quantum_common.contracts import (
    REGISTRY,
    AccountPosition,
    AccountUpdated,
    ApprovalExpired,
    Candle,
    DecisionMade,
    Envelope,
    Explanation,
    FeaturesComputed,
    FundingPaid,
    Look,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    PositionApproved,
    PositionDrifted,
    PositionRejected,
    PredictionAbstained,
    PredictionMade,
    Producer,
    TradeClosed,
    Vote,
    content_id,
    envelope,
)
from quantum_common.domain import AGENTS, Action, Intent, OrderSide, Role
from quantum_common.features import feature_hash

HOUR_MS = 3_600_000
BAR_MS = 480_000 * HOUR_MS
CLOSE_MS = BAR_MS + HOUR_MS
BTC, ETH = "BTCUSDT", "ETHUSDT"
DECISION_ID = content_id("DecisionMade", BTC, "1h", BAR_MS, "meta-svc", "")
ORDER_ID = "qt0f1e2d3c4b5a6978"


def event(
    payload: msgspec.Struct, service: str, *, symbol: str = BTC, bar_ms: int = BAR_MS, key: str = ""
) -> Envelope[Any]:
    return envelope(
        payload,
        producer=Producer(service, "1", "0.1.0"),
        produced_at_ms=CLOSE_MS + 12,
        symbol=symbol,
        timeframe="1h" if symbol else "",
        bar_ts_ms=bar_ms,
        natural_key=key,
    )


def features(symbol: str = BTC, bar_ms: int = BAR_MS, live_symbols: int = 2) -> Envelope[FeaturesComputed]:
    payload = FeaturesComputed(
        candle=Candle(67_123.4, 67_456.7, 66_987.1, 67_321.9, 1_234.567),
        values=tuple((number - 8.5) / 7.3 for number in range(18)),
        volatility=0.4375,
        trend_strength=-0.21875,
        feature_hash=feature_hash("raw"),
        gap_bars=0,
        live_symbols=live_symbols,
    )
    return event(payload, "feature-svc", symbol=symbol, bar_ms=bar_ms)


def account(bar_ms: int = BAR_MS) -> Envelope[AccountUpdated]:
    position = AccountPosition(
        symbol="SOLUSDT",
        side=OrderSide.SELL,
        quantity=Decimal("1.5"),
        entry_price=Decimal("151.20"),
        notional_usd=Decimal("226.80"),
        unrealised_pnl=Decimal("-1.25"),
    )
    payload = AccountUpdated(
        cause="bar",
        wallet_balance=Decimal("10000.25"),
        equity=Decimal("9999.00"),
        positions=(position,),
        as_of_ms=CLOSE_MS,
        bar_ts_ms=bar_ms,
        sequence=7,
        min_notional_usd={BTC: Decimal("5"), ETH: Decimal("5")},
    )
    return event(payload, "executor-svc", symbol="", bar_ms=bar_ms, key="7")


def _decision() -> DecisionMade:
    votes = [Vote(agent, Action.BUY, 0.71, (0.09, 0.2, 0.71), "20260101-1", None) for agent in AGENTS[:3]]
    votes.append(Vote(AGENTS[3], None, 0.0, None, None, "not_enough_history"))
    return DecisionMade(
        action=Action.BUY,
        confidence=0.7125,
        reason="meta_override",
        use_meta=True,
        meta_action=Action.BUY,
        meta_confidence=0.7125,
        base_ensemble_action=Action.HOLD,
        base_ensemble_confidence=0.55,
        consensus_strength=0.75,
        votes=tuple(votes),
        explanation=Explanation(
            tuple(f"{agent}_{name}" for agent in AGENTS for name in ("sell", "hold", "buy")),
            tuple(number / 16 for number in range(12)),
            tuple((number - 6) / 32 for number in range(12)),
            0.125,
        ),
        trigger="complete",
        input_event_ids=tuple(content_id("input", number) for number in range(5)),
        meta_version="v2",
        meta_model_version="20260101-1",
        volatility=0.4375,
        trend_strength=-0.21875,
    )


def examples() -> dict[str, Envelope[Any]]:
    """kind → event."""
    order, quantity, price = ORDER_ID, Decimal("0.015"), Decimal("67321.90")
    made = [
        features(),
        event(
            PredictionMade("xgb", Action.BUY, 0.71, (0.09, 0.2, 0.71), "20260101-1", "champion", 0.0625),
            "xgb-agent",
            key="20260101-1:champion",
        ),
        event(PredictionAbstained("nhits", "not_enough_history", "12 of 64 bars"), "nhits-agent", key="abstained"),
        event(_decision(), "meta-svc"),
        event(
            PositionApproved(
                decision_id=DECISION_ID,
                intent=Intent.OPEN,
                action=Action.BUY,
                confidence=0.7125,
                position_size_usd=Decimal("1009.83"),
                position_size_pct=0.1,
                risk_amount_usd=Decimal("20.20"),
                kelly_optimal=0.18,
                stop_distance_fraction=0.02,
                take_profit_distance_fraction=0.04,
                expires_at_ms=CLOSE_MS + 60_000,
                batch_rank=0,
                reason="APPROVED",
            ),
            "governer-svc",
            key=DECISION_ID,
        ),
        event(
            PositionRejected(DECISION_ID, "BUY", 0.5, "LOW_CONFIDENCE", "LOW_CONFIDENCE (0.500 < 0.650)", 1),
            "governer-svc",
            key=DECISION_ID,
        ),
        event(ApprovalExpired(DECISION_ID, Decimal("1009.83")), "governer-svc", key=DECISION_ID),
        event(
            OrderSubmitted(order, DECISION_ID, Role.STOP, OrderSide.SELL, "stop_market", quantity, price, True),
            "executor-svc",
            key=f"{order}:submitted",
        ),
        event(OrderAccepted(order, DECISION_ID, Role.ENTRY, "8389765512"), "executor-svc", key=f"{order}:accepted"),
        event(
            OrderFilled(
                client_order_id=order,
                decision_id=DECISION_ID,
                decision_bar_ts_ms=BAR_MS,
                role=Role.ENTRY,
                trade_id="271828",
                side=OrderSide.BUY,
                quantity=quantity,
                price=price,
                fee=Decimal("0.40393140"),
                realized_pnl=Decimal("0"),
                market_ts_ms=CLOSE_MS + 250,
                sequence=0,
            ),
            "executor-svc",
            key="271828",
        ),
        event(OrderCanceled(order, DECISION_ID, Role.TAKE_PROFIT, "sibling_filled"), "executor-svc", key=order),
        event(
            OrderRejected(order, DECISION_ID, Role.ENTRY, "-2010", "Account has insufficient balance"),
            "executor-svc",
            key=f"{order}:rejected",
        ),
        event(
            TradeClosed(
                decision_id=DECISION_ID,
                decision_bar_ts_ms=BAR_MS,
                side=OrderSide.BUY,
                quantity=quantity,
                entry_price=price,
                exit_price=Decimal("68668.34"),
                fees=Decimal("0.81594144"),
                funding=Decimal("-0.05"),
                pnl=Decimal("19.33066"),
                exit_role=Role.TAKE_PROFIT,
                exit_reason="take_profit",
                opened_ts_ms=CLOSE_MS + 250,
                closed_ts_ms=CLOSE_MS + 5 * HOUR_MS,
            ),
            "executor-svc",
            key=DECISION_ID,
        ),
        event(FundingPaid(Decimal("-0.05"), CLOSE_MS), "executor-svc", key=str(CLOSE_MS)),
        account(),
        event(PositionDrifted(BTC, quantity, Decimal("0"), False), "executor-svc", key="8"),
        event(Look("clock", CLOSE_MS), "quantum", symbol="", bar_ms=0, key=str(CLOSE_MS)),
    ]
    return {each.kind: each for each in made}


def stream_of(kind: str) -> str | None:
    """Name in the registry of the stream that carries this kind."""
    return next((spec.name for spec in REGISTRY if kind in spec.kinds), None)

"""Truth table of the checks: which reason, with which numbers, and in which order."""

from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from governer_svc.checks import Signal
from governer_svc.config import RiskConfig, TradingState
from governer_svc.core import PositionAllocation, allocate, log_line
from governer_svc.errors import InvalidRiskConfig
from governer_svc.state import Account, ClosedTrade, OpenPosition, Reservation, RiskState, TradeResult
from quantum_common.domain.signal import Action, Intent, OrderSide

HOUR = 3_600_000
BAR = 1_700_000_000_000 // 86_400_000 * 86_400_000 + 11 * HOUR
CLOSE = BAR + HOUR
TODAY = CLOSE // 86_400_000
BTC = "BTCUSDT"


def account(**changes: Any) -> Account:
    given = {"wallet_balance": Decimal(10_000), "equity": Decimal(10_000), "bar_ts_ms": BAR, **changes}
    return Account(
        as_of_ms=CLOSE, sequence=1, **{"min_notional_usd": {BTC: Decimal(5), "ETHUSDT": Decimal(5)}, **given}
    )


def known(**changes: Any) -> RiskState:
    given = {"account": account(), "peak_equity": Decimal(10_000), "day": TODAY, **changes}
    return RiskState(day_start_equity=Decimal(10_000), **given)


def judge(
    state: RiskState,
    config: RiskConfig | None = None,
    *,
    action: str = "BUY",
    confidence: Any = 0.80,
    symbol: str = BTC,
    now_ms: int = CLOSE,
) -> PositionAllocation:
    signal = Signal("d1", symbol, action, confidence)
    _, (verdict,) = allocate(state, config or RiskConfig(), [signal], bar_ts_ms=BAR, timeframe="1h", now_ms=now_ms)
    return verdict


def position(side: OrderSide = OrderSide.BUY, notional: int = 800) -> OpenPosition:
    return OpenPosition(side, Decimal(1), Decimal(notional), Decimal(notional))


def reservation(symbol: str = BTC, size: int = 800) -> Reservation:
    return Reservation(symbol, Action.BUY, Decimal(size), TODAY, CLOSE + 60_000, BAR, "1h")


def test_a_good_signal_is_approved_with_its_kelly_size() -> None:
    verdict = judge(known(), confidence=0.92)
    assert (verdict.reason, verdict.intent) == ("APPROVED", Intent.OPEN)
    assert verdict.kelly_optimal == pytest.approx(0.0821, abs=5e-5)
    assert verdict.position_size_usd == Decimal("821.42")
    assert verdict.position_size_pct == pytest.approx(0.082142)
    assert verdict.risk_amount_usd == Decimal("16.42")
    assert verdict.stop_distance_fraction == 0.02
    assert verdict.take_profit_distance_fraction == 0.03
    assert verdict.expires_at_ms == CLOSE + 60_000
    assert log_line(verdict) == "[GOVERNER] BTCUSDT APPROVED: Size=$821.42"


@pytest.mark.parametrize("confidence", [0.0, 0.99])
def test_hold_is_always_a_hold_signal(confidence: float) -> None:
    assert judge(known(), action="HOLD", confidence=confidence).reason == "HOLD_SIGNAL"
    assert judge(RiskState(), action="HOLD", confidence=confidence).reason == "HOLD_SIGNAL"


@pytest.mark.parametrize(
    ("action", "confidence"),
    [
        ("LONG", 0.9),
        ("buy", 0.9),
        ("", 0.9),
        ("BUY", float("nan")),
        ("BUY", float("inf")),
        ("BUY", 1.01),
        ("BUY", -0.1),
        ("BUY", None),
        ("BUY", "0.9"),
        ("BUY", True),
    ],
)
def test_f11_what_is_not_a_signal_is_refused_without_a_crash(action: str, confidence: Any) -> None:
    assert judge(known(), action=action, confidence=confidence).reason == "INVALID_SIGNAL"


def test_a_signal_is_judged_before_the_account() -> None:
    assert judge(RiskState(), action="LONG").reason == "INVALID_SIGNAL"


@pytest.mark.parametrize(
    "state",
    [
        RiskState(),
        known(account=account(bar_ts_ms=BAR - HOUR)),
        known(account=account(wallet_balance=Decimal(0))),
        known(account=account(min_notional_usd={})),
        known(peak_equity=Decimal(0)),
    ],
)
def test_f21_nothing_opens_without_a_fresh_account_from_the_venue(state: RiskState) -> None:
    assert judge(state, confidence=0.1).reason == "NO_EQUITY"


@pytest.mark.parametrize(
    ("age_ms", "reason"), [(60_000, "APPROVED"), (60_001, "STALE_SIGNAL"), (-60_001, "STALE_SIGNAL")]
)
def test_f32_a_late_signal_is_stale(age_ms: int, reason: str) -> None:
    assert judge(known(), now_ms=CLOSE + age_ms).reason == reason


def test_an_old_signal_is_stale_before_it_is_unconfident() -> None:
    verdict = judge(known(), confidence=0.1, now_ms=CLOSE + 75_000)
    assert verdict.detail == "STALE_SIGNAL (75.0s > 60s)"


def test_low_confidence_shows_both_numbers() -> None:
    verdict = judge(known(), confidence=0.5)
    assert log_line(verdict) == "[GOVERNER] BTCUSDT REJECTED: LOW_CONFIDENCE (0.500 < 0.650)"
    assert judge(known(), confidence=0.65).approved


STOPPED = RiskConfig(emergency_stop=True, trading_state=TradingState.HALTED)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (STOPPED, "EMERGENCY_STOP_ACTIVE"),
        (RiskConfig(trading_state=TradingState.HALTED), "TRADING_HALTED"),
        (RiskConfig(trading_state=TradingState.REDUCING), "TRADING_REDUCING"),
    ],
)
def test_an_operators_stop_refuses_entries_before_any_other_breaker(config: RiskConfig, reason: str) -> None:
    state = known(account=account(equity=Decimal(1)), daily_trades=20)
    assert judge(state, config).reason == reason


def test_an_emergency_stop_means_at_most_reducing() -> None:
    assert RiskConfig(emergency_stop=True).effective_state is TradingState.REDUCING
    assert STOPPED.effective_state is TradingState.HALTED
    assert RiskConfig().effective_state is TradingState.ACTIVE


def test_drawdown_is_strictly_greater_and_counts_unrealised_loss() -> None:
    at_limit = known(account=account(equity=Decimal(8_500)))
    assert judge(at_limit).approved
    beyond = known(account=account(equity=Decimal("8499.99")))
    assert judge(beyond).reason == "MAX_DRAWDOWN_EXCEEDED"
    far = known(account=account(equity=Decimal(8_000)), daily_trades=20)
    assert judge(far).detail == "MAX_DRAWDOWN_EXCEEDED (0.200 > 0.150)"


def test_the_daily_trade_limit_counts_to_its_last_trade() -> None:
    assert judge(known(daily_trades=19)).approved
    assert judge(known(daily_trades=20)).detail == "DAILY_TRADE_LIMIT_REACHED (20/20)"


def test_a_new_utc_day_has_its_own_trade_count() -> None:
    assert judge(known(daily_trades=20, day=TODAY - 1)).approved


def test_the_daily_loss_limit_is_off_by_default_and_stops_at_its_value() -> None:
    down = known(account=account(equity=Decimal(9_700)))
    assert judge(down).approved
    verdict = judge(down, RiskConfig(max_daily_loss_pct=0.03))
    assert verdict.detail == "DAILY_LOSS_LIMIT_REACHED (0.030 >= 0.030)"
    assert judge(down, RiskConfig(max_daily_loss_pct=0.031)).approved
    unknown = replace(down, day_start_equity=None)
    assert judge(unknown, RiskConfig(max_daily_loss_pct=0.5)).reason == "DAILY_LOSS_LIMIT_REACHED"


def test_exposure_counts_positions_and_reservations_against_the_venues_minimum() -> None:
    full = known(positions={"ETHUSDT": position(notional=4_000)}, reservations={"x": reservation("SOLUSDT", 996)})
    assert judge(full).detail == "MAX_EXPOSURE_EXCEEDED (room 4.00 < venue minimum 5)"
    barely = known(positions={"ETHUSDT": position(notional=4_000)}, reservations={"x": reservation("SOLUSDT", 995)})
    assert judge(barely).position_size_usd == Decimal("5.00")


def test_a_size_is_cut_to_the_room_left() -> None:
    verdict = judge(known(positions={"ETHUSDT": position(notional=4_900)}))
    assert verdict.position_size_usd == Decimal("100.00")


def test_a_size_below_the_venues_minimum_is_refused_not_raised() -> None:
    poor = known(account=account(wallet_balance=Decimal(60), equity=Decimal(60)), peak_equity=Decimal(60))
    verdict = judge(poor, confidence=0.7)
    assert verdict.detail == "MAX_EXPOSURE_EXCEEDED (size 3.75 < venue minimum 5)"


def results(*rows: tuple[float, int]) -> dict[str, tuple[TradeResult, ...]]:
    return {BTC: tuple(TradeResult(round(CLOSE - age_min * 60_000), Decimal(pnl)) for age_min, pnl in rows)}


@pytest.mark.parametrize(
    ("rows", "detail"),
    [
        ([(47.7, -1)], "COOLDOWN_ACTIVE (12.3m remaining)"),
        ([(60.0, -1)], "APPROVED"),
        ([(10.0, 0)], "APPROVED"),
        ([(10.0, 5)], "APPROVED"),
        ([(30.0, -1), (10.0, 5)], "COOLDOWN_ACTIVE (30.0m remaining)"),
        ([(50.0, -1), (20.0, -1)], "COOLDOWN_ACTIVE (40.0m remaining)"),
    ],
)
def test_the_newest_loss_of_the_symbol_cools_it_down(rows: list[tuple[float, int]], detail: str) -> None:
    assert judge(known(recent_results=results(*rows))).detail == detail


def test_another_symbols_loss_does_not_cool_this_one_down() -> None:
    losses = {"ETHUSDT": (TradeResult(CLOSE - 1, Decimal(-1)),)}
    assert judge(known(recent_results=losses)).approved


def test_exposure_is_checked_before_cooldown_and_cooldown_before_the_open_position() -> None:
    hot = known(recent_results=results((1.0, -1)), positions={BTC: position()})
    assert judge(hot).reason == "COOLDOWN_ACTIVE"
    assert judge(replace(hot, positions={BTC: position(notional=5_000)})).reason == "MAX_EXPOSURE_EXCEEDED"


def test_a_position_or_a_pending_approval_blocks_the_symbol() -> None:
    assert judge(known(positions={BTC: position()})).reason == "POSITION_OPEN"
    assert judge(known(reservations={"x": reservation()})).reason == "POSITION_OPEN"
    assert judge(known(reservations={"x": reservation("ETHUSDT")})).approved


def test_f16_the_opposite_of_a_pending_approval_does_not_open_either() -> None:
    assert judge(known(reservations={"x": reservation()}), action="SELL").reason == "POSITION_OPEN"


def test_a_short_is_refused_on_a_spot_market_only() -> None:
    assert judge(known(), action="SELL").approved
    assert judge(known(), RiskConfig(allow_short=False), action="SELL").reason == "SHORT_NOT_ALLOWED"


def test_a_losing_edge_is_negative_kelly() -> None:
    verdict = judge(known(), RiskConfig(win_rate=0.40))
    assert verdict.reason == "NEGATIVE_KELLY"
    assert not verdict.approved


def test_adaptive_kelly_learns_from_the_accounts_own_trades() -> None:
    def trades(wins: int, losses: int) -> tuple[ClosedTrade, ...]:
        pnls = [Decimal(15)] * wins + [Decimal(-10)] * losses
        return tuple(ClosedTrade(BTC, Action.BUY, Decimal(1), Decimal(1), Decimal(1_000), pnl, CLOSE) for pnl in pnls)

    adaptive = RiskConfig(kelly_mode="adaptive")
    plain = judge(known()).kelly_optimal
    assert judge(known(), adaptive).kelly_optimal == pytest.approx(plain)
    assert judge(known(trade_history=trades(11, 9)), adaptive).kelly_optimal == pytest.approx(plain)
    assert judge(known(trade_history=trades(15, 5)), adaptive).kelly_optimal > plain
    assert judge(known(trade_history=trades(0, 60)), adaptive).reason == "NEGATIVE_KELLY"
    assert judge(known(trade_history=trades(0, 60))).kelly_optimal == plain


@pytest.mark.parametrize("side", [OrderSide.BUY, OrderSide.SELL])
def test_f17_an_opposite_decision_closes_past_every_breaker_and_opens_nothing(side: OrderSide) -> None:
    opposite = "SELL" if side is OrderSide.BUY else "BUY"
    stuck = known(
        account=account(equity=Decimal(1), bar_ts_ms=BAR - HOUR),
        daily_trades=20,
        positions={BTC: position(side, 9_000)},
        recent_results=results((1.0, -1)),
    )
    state, (verdict,) = allocate(
        stuck,
        RiskConfig(emergency_stop=True, allow_short=False),
        [Signal("d1", BTC, opposite, 0.65)],
        bar_ts_ms=BAR,
        timeframe="1h",
        now_ms=CLOSE,
    )
    assert (verdict.approved, verdict.intent, verdict.position_size_usd) == (True, Intent.CLOSE, 0)
    assert verdict.action == opposite
    assert (state.reservations, state.daily_trades) == ({}, 20)


@pytest.mark.parametrize(
    ("confidence", "now_ms", "config", "reason"),
    [
        (0.64, CLOSE, RiskConfig(), "LOW_CONFIDENCE"),
        (0.9, CLOSE + 61_000, RiskConfig(), "STALE_SIGNAL"),
        (1.5, CLOSE, RiskConfig(), "INVALID_SIGNAL"),
        (0.9, CLOSE, RiskConfig(trading_state=TradingState.HALTED), "TRADING_HALTED"),
    ],
)
def test_an_exit_still_needs_a_signal_one_can_trust(
    confidence: float, now_ms: int, config: RiskConfig, reason: str
) -> None:
    held = known(positions={BTC: position()})
    assert judge(held, config, action="SELL", confidence=confidence, now_ms=now_ms).reason == reason


@pytest.mark.parametrize(
    "change",
    [
        {"max_position_size_pct": 0},
        {"max_total_exposure_pct": 1.1},
        {"max_drawdown_pct": float("nan")},
        {"min_confidence_threshold": 65},
        {"max_daily_trades": -1},
        {"max_daily_loss_pct": 0},
        {"max_signal_age_s": 0},
        {"risk_per_trade_pct": 0.7},
        {"cooldown_after_loss_minutes": float("inf")},
    ],
)
def test_a_limit_outside_its_range_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InvalidRiskConfig):
        RiskConfig(**change)

"""The pure core: one input, one book, the events."""

from decimal import Decimal

import pytest

from executor_svc import core
from executor_svc.core.account import position_drifts, wallet_drift
from executor_svc.core.guards import bad_trigger
from executor_svc.core.reports import WOULD_TRIGGER
from executor_svc.core.states import AFTER_REPORT, TERMINAL
from executor_svc.core.venue_facts import VenuePosition
from quantum_common.contracts import (
    AccountUpdated,
    FundingPaid,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    PositionDrifted,
    TradeClosed,
)
from quantum_common.domain.signal import Action, Intent, OrderSide, Role

HOUR_MS = 3_600_000
MARKET = core.Market("BTCUSDT", Decimal("0.1"), Decimal("0.001"), Decimal("0.001"), Decimal(1000), Decimal(100))
ENTRY, STOP, TAKE_PROFIT, EXIT = "entry", "stop", "take_profit", "exit"


def test_the_state_table_has_a_row_for_every_live_state_and_report():
    live = set(core.OrderState) - TERMINAL
    assert set(AFTER_REPORT) == {(state, status) for state in live for status in core.ReportStatus}


def test_an_approval_becomes_one_intent_with_an_id_from_its_decision(bench):
    bench.approve()
    order = bench.order(ENTRY)
    assert (order.side, order.order_type, order.reduce_only) == (OrderSide.BUY, "market", False)
    assert order.state is core.OrderState.SUBMITTING
    assert len(order.client_order_id) <= 36
    assert bench.payloads(OrderSubmitted)[0].client_order_id == order.client_order_id


def test_a_filled_entry_gets_one_stop_and_one_target_of_its_size_at_the_approved_distances(bench):
    bench.approve()
    bench.fill_entry("20000.37")
    stop, target = bench.order(STOP), bench.order(TAKE_PROFIT)
    assert stop.quantity == target.quantity == bench.book.positions["BTCUSDT"].quantity
    assert (stop.trigger_price, target.trigger_price) == (Decimal("19600.4"), Decimal("20600.3"))
    assert stop.side is target.side is OrderSide.SELL
    assert bench.book.unsettled == 1  # the AccountUpdated of the fill


def test_when_the_target_fills_the_stop_is_cancelled_and_the_trade_closed(bench):
    bench.approve()
    bench.fill_entry()
    quantity = str(bench.order(TAKE_PROFIT).quantity)
    bench.report(TAKE_PROFIT, core.ReportStatus.FILLED, executed=Decimal(quantity), spawned_order_id="99")
    bench.trades(bench.trade(TAKE_PROFIT, quantity, "20600", realized_pnl=Decimal("29.4")))
    bench.plan()
    closed = bench.payloads(TradeClosed)[0]
    assert (closed.exit_role, closed.exit_reason) == (Role.TAKE_PROFIT, "take_profit")
    assert closed.pnl == Decimal("28.4")
    assert bench.order(STOP).state is core.OrderState.CANCELING
    bench.report(STOP, core.ReportStatus.CANCELED)
    bench.plan()
    assert not bench.book.positions
    assert not bench.book.orders
    assert len(bench.payloads(TradeClosed)) == 1


def test_a_conditional_orders_id_is_not_taken_for_the_ordinary_order_of_the_same_number(bench):
    bench.approve()
    bench.fill_entry()
    bench.approve(intent=Intent.CLOSE, bar_ts_ms=bench.now_ms)
    bench.plan()
    bench.report(EXIT, core.ReportStatus.OPEN, venue_order_id=bench.order(STOP).venue_order_id)
    quantity = bench.order(EXIT).quantity
    trade = bench.trade(EXIT, str(quantity), "20000", venue_order_id=bench.order(STOP).venue_order_id)
    assert bench.trades(trade) is None
    assert bench.book.positions["BTCUSDT"].exit_role is Role.EXIT


def test_f01_an_accepted_order_is_not_a_fill_and_a_trade_at_price_zero_is_refused(bench):
    bench.approve()
    bench.report(ENTRY, core.ReportStatus.FILLED, executed=bench.order(ENTRY).quantity)
    assert not bench.payloads(OrderFilled)
    assert bench.trades(bench.trade(ENTRY, "0.049", "0")) is not None
    assert not bench.payloads(OrderFilled)
    assert not bench.book.positions["BTCUSDT"].quantity


@pytest.mark.parametrize("distance", [96_000_000.0, 0.51, 0.0, -0.02, float("nan")])
def test_f12_a_stop_distance_that_is_no_sane_fraction_is_refused(bench, distance):
    bench.approve(stop_distance_fraction=distance)
    assert bench.payloads(OrderRejected)[0].reason == "TRIGGER_DISTANCE"
    assert not bench.book.orders


@pytest.mark.parametrize(
    ("role", "price", "reason"),
    [
        (Role.STOP, "20400.0", "TRIGGER_SIDE"),
        (Role.TAKE_PROFIT, "19600.0", "TRIGGER_SIDE"),
        (Role.STOP, "-1", "TRIGGER_GRID"),
        (Role.STOP, "19600.05", "TRIGGER_GRID"),
        (Role.TAKE_PROFIT, "96000000.0", "TRIGGER_DISTANCE"),
        (Role.STOP, "19600.0", ""),
        (Role.TAKE_PROFIT, "20600.0", ""),
    ],
)
def test_f12_triggers_stand_on_the_right_side_at_a_sane_distance(bench, role, price, reason):
    bench.approve()
    bench.fill_entry()
    assert bad_trigger(bench.book.positions["BTCUSDT"], role, Decimal(price), MARKET) == reason


def test_f14_the_same_approval_twice_is_one_order(bench):
    bench.approve()
    before, said = bench.book, len(bench.events)
    bench.approve()
    assert bench.book == before
    assert len(bench.events) == said


def test_f14_an_old_approval_after_its_trade_is_over_changes_nothing(bench):
    bench.approve()
    bench.take(core.refuse(bench.book, bench.order(ENTRY), "EXPIRED"))
    assert not bench.book.positions
    bench.approve()
    assert not bench.book.orders


def test_f14_a_close_older_than_the_position_changes_nothing_and_one_of_the_same_bar_acts(bench):
    bench.approve()
    bench.fill_entry()
    decided_at = bench.book.positions["BTCUSDT"].decision_bar_ts_ms
    bench.approve(intent=Intent.CLOSE, bar_ts_ms=decided_at - HOUR_MS)
    assert not bench.book.positions["BTCUSDT"].exit_reason
    bench.approve(intent=Intent.CLOSE, bar_ts_ms=decided_at)
    assert bench.book.positions["BTCUSDT"].exit_reason == "opposite_signal"


def test_f16_a_second_position_on_a_symbol_is_refused(bench):
    bench.approve()
    bench.fill_entry()
    bench.approve(bar_ts_ms=bench.now_ms, action=Action.SELL, expires_at_ms=bench.now_ms)
    assert bench.payloads(OrderRejected)[0].reason == "POSITION_OPEN"


def test_f16_the_submit_point_refuses_an_entry_against_an_open_position(bench):
    bench.approve()
    assert bench.refusal(ENTRY) == ""
    entry = bench.order(ENTRY)
    bench.fill_entry()
    bench.book = core.Book(account="paper", positions=bench.book.positions, orders={entry.client_order_id: entry})
    assert bench.refusal(ENTRY) == "POSITION_OPEN"


@pytest.mark.parametrize("action", [Action.BUY, Action.SELL])
def test_f17_a_close_is_reduce_only_against_the_position_and_retried_until_done(bench, action):
    bench.approve(action=action)
    bench.fill_entry()
    bench.approve(intent=Intent.CLOSE, bar_ts_ms=bench.now_ms)
    bench.plan()
    first = bench.order(EXIT)
    assert first.reduce_only
    assert first.side is bench.book.positions["BTCUSDT"].side.opposite
    assert bench.refusal(EXIT) == ""
    bench.take(core.refuse(bench.book, first, "-1111", "precision"))
    bench.plan()
    again = bench.order(EXIT)
    assert again.client_order_id != first.client_order_id
    assert again.quantity == first.quantity


def test_f17_the_submit_point_refuses_an_exit_that_is_not_reduce_only(bench):
    bench.approve()
    bench.fill_entry()
    bench.approve(intent=Intent.CLOSE, bar_ts_ms=bench.now_ms)
    bench.plan()
    exit_order = bench.order(EXIT)
    for change in ({"reduce_only": False}, {"side": OrderSide.BUY}):
        broken = core.book.msgspec.structs.replace(exit_order, **change)
        bench.book = core.book.with_order(bench.book, broken)
        assert bench.refusal(EXIT) == "INTENT_MISMATCH"


@pytest.mark.parametrize(("usd", "reason"), [("10", "MIN_QUANTITY"), ("99", "MIN_NOTIONAL")])
def test_f19_an_entry_below_the_venues_minimum_is_rejected(bench, usd, reason):
    bench.approve(position_size_usd=Decimal(usd))
    assert bench.payloads(OrderRejected)[0].reason == reason
    assert not bench.book.positions


def test_f32_an_expired_approval_is_refused_on_arrival_and_at_the_last_step(bench):
    bench.approve()
    late = bench.now_ms + 61_000
    assert bench.refusal(ENTRY, market_now_ms=late) == "EXPIRED"
    bench.now_ms = late
    bench.approve(symbol="BTCUSDT", bar_ts_ms=late - HOUR_MS, expires_at_ms=late - 1)
    assert bench.payloads(OrderRejected)[0].reason == "EXPIRED"


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        ({"trading_state": "HALTED"}, "KILL_SWITCH"),
        ({"trading_state": "REDUCING"}, "KILL_SWITCH"),
        ({"trading_state": ""}, "TRADING_STATE_UNKNOWN"),
        ({"trading_state": "active"}, "TRADING_STATE_UNKNOWN"),
        ({"account_trusted": False}, "ACCOUNT_NOT_TRUSTED"),
    ],
)
def test_f25_entries_stop_at_the_kill_switch_and_at_an_untrusted_account(bench, context, reason):
    bench.approve()
    assert bench.refusal(ENTRY, **context) == reason


def test_f29_a_partial_entry_is_protected_and_its_stop_resized_with_never_two_live(bench):
    bench.approve()
    bench.report(ENTRY, core.ReportStatus.OPEN)
    bench.trades(bench.trade(ENTRY, "0.010", "20000"))
    bench.plan()
    assert bench.order(STOP).quantity == Decimal("0.010")
    bench.report(STOP, core.ReportStatus.OPEN)
    bench.trades(bench.trade(ENTRY, "0.020", "20000"))
    bench.plan()
    assert [order.state for order in bench.book.orders_of("BTCUSDT", Role.STOP)] == [core.OrderState.CANCELING]
    bench.report(STOP, core.ReportStatus.CANCELED)
    bench.plan()
    assert [order.quantity for order in bench.book.orders_of("BTCUSDT", Role.STOP)] == [Decimal("0.030")]


def test_f29_a_stop_that_triggered_and_does_not_fill_is_replaced_by_a_market_close(bench):
    bench.approve()
    bench.fill_entry()
    bench.report(STOP, core.ReportStatus.OPEN, spawned_order_id="77")
    bench.plan()
    assert not bench.book.orders_of("BTCUSDT", Role.EXIT)
    bench.wall_ms += 5_001
    bench.plan()
    assert bench.order(EXIT).quantity == bench.book.positions["BTCUSDT"].quantity


def test_a_position_whose_stop_is_refused_is_closed_at_market(bench):
    bench.approve()
    bench.report(ENTRY, core.ReportStatus.FILLED, executed=bench.order(ENTRY).quantity)
    bench.trades(bench.trade(ENTRY, str(bench.order(ENTRY).quantity), "20000"))
    bench.plan()
    bench.take(core.refuse(bench.book, bench.order(STOP), "-2021"))
    bench.plan()
    assert bench.order(EXIT).reduce_only
    assert bench.book.positions["BTCUSDT"].exit_reason == "unprotected"


def test_a_target_the_market_has_passed_already_is_taken_at_market(bench):
    bench.approve()
    bench.report(ENTRY, core.ReportStatus.FILLED, executed=bench.order(ENTRY).quantity)
    bench.trades(bench.trade(ENTRY, str(bench.order(ENTRY).quantity), "20000"))
    bench.plan()
    bench.take(core.refuse(bench.book, bench.order(TAKE_PROFIT), WOULD_TRIGGER))
    bench.plan()
    assert bench.book.positions["BTCUSDT"].exit_reason == "take_profit"


def test_an_entry_that_ends_unfilled_leaves_nothing_and_says_so(bench):
    bench.approve()
    bench.report(ENTRY, core.ReportStatus.CANCELED, executed=Decimal(0))
    assert bench.payloads(OrderCanceled)[0].role is Role.ENTRY
    assert not bench.book.positions
    assert bench.book.unsettled == 0


def test_the_time_stop_comes_with_the_bar_that_ends_the_label_horizon(bench):
    bench.approve()
    bench.fill_entry()
    bar = bench.book.positions["BTCUSDT"].decision_bar_ts_ms
    rules = core.Rules(horizon_bars=5, entry_price_margin=Decimal(0), unfilled_trigger_ms=0)
    assert not core.time_stops(bench.book, bar + 6 * HOUR_MS - 1, rules).positions["BTCUSDT"].exit_reason
    assert core.time_stops(bench.book, bar + 6 * HOUR_MS, rules).positions["BTCUSDT"].exit_reason == "time_stop"


def snapshot(quantity: str = "0", wallet: str = "10000") -> core.AccountSnapshot:
    held = {"BTCUSDT": VenuePosition(Decimal(quantity), Decimal(1000), Decimal(0))} if Decimal(quantity) else {}
    return core.AccountSnapshot(Decimal(wallet), Decimal(wallet), held)


def tell(bench, held: core.AccountSnapshot) -> None:
    bench.take(
        core.take_account(bench.book, held, "reconcile", market_now_ms=bench.now_ms, min_notional_usd={"BTCUSDT": 100})
    )


def test_f18_an_unexplained_quantity_is_an_event_and_stops_entries_until_it_is_gone(bench):
    tell(bench, snapshot("0.5"))
    drift = bench.payloads(PositionDrifted)[0]
    assert (drift.quantity_expected, drift.quantity_at_venue, drift.resolved) == (0, Decimal("0.5"), False)
    tell(bench, snapshot("0.5"))
    assert len(bench.payloads(PositionDrifted)) == 1
    bench.approve()
    assert bench.payloads(OrderRejected)[0].reason == "POSITION_DRIFTED"
    tell(bench, snapshot())
    assert bench.payloads(PositionDrifted)[-1].resolved
    bench.approve(bar_ts_ms=bench.now_ms, expires_at_ms=bench.now_ms)
    assert bench.order(ENTRY)


def test_every_account_update_has_the_next_sequence(bench):
    for _ in range(3):
        tell(bench, snapshot())
    assert [update.sequence for update in bench.payloads(AccountUpdated)] == [1, 2, 3]


def test_f24_fills_fees_and_funding_explain_the_wallet(bench):
    tell(bench, snapshot(wallet="10000"))
    bench.approve()
    bench.fill_entry()
    quantity = str(bench.book.positions["BTCUSDT"].quantity)
    payment = core.Funding("BTCUSDT", "7", Decimal("-0.08"), bench.now_ms + HOUR_MS)
    for _ in range(2):
        bench.take(core.take_funding(bench.book, "BTCUSDT", [payment], bench.now_ms + HOUR_MS))
    assert len(bench.payloads(FundingPaid)) == 1
    held = snapshot(quantity, "9999.42")
    assert wallet_drift(bench.book, held) == 0
    assert not position_drifts(bench.book, held)
    assert bench.book.positions["BTCUSDT"].funding == Decimal("-0.08")


def test_a_trade_that_crossed_an_hour_is_closed_only_after_funding_was_asked_for(bench):
    bench.approve()
    bench.fill_entry()
    bench.approve(intent=Intent.CLOSE, bar_ts_ms=bench.now_ms)
    bench.plan()
    bench.now_ms += HOUR_MS
    quantity = bench.order(EXIT).quantity
    bench.report(EXIT, core.ReportStatus.FILLED, executed=quantity)
    bench.trades(bench.trade(EXIT, str(quantity), "20100"))
    bench.plan()
    assert not bench.payloads(TradeClosed)
    payment = core.Funding("BTCUSDT", "7", Decimal("-0.08"), bench.now_ms)
    bench.take(core.take_funding(bench.book, "BTCUSDT", [payment], bench.now_ms))
    bench.plan()
    assert bench.payloads(TradeClosed)[0].funding == Decimal("-0.08")

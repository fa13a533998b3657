"""How the executor's events change the risk state."""

from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from governer_svc.checks import Signal
from governer_svc.config import RiskConfig
from governer_svc.core import allocate
from governer_svc.errors import InvalidExecution
from governer_svc.executions import take_in, take_in_once
from governer_svc.state import BOOKED_KEPT, RiskState, decode_state, encode_state
from quantum_common.contracts import (
    AccountPosition,
    AccountUpdated,
    FundingPaid,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    TradeClosed,
)
from quantum_common.domain.signal import OrderSide, Role

HOUR = 3_600_000
DAY = 86_400_000
BAR = 20_000 * DAY + 5 * HOUR
CLOSE = BAR + HOUR
BTC = "BTCUSDT"


sequences = count(1)


def account(**changes: Any) -> AccountUpdated:
    """One update of the venue's, newer than all before."""
    full = AccountUpdated("bar", Decimal(10_000), Decimal(10_000), (), CLOSE, BAR, next(sequences), {BTC: Decimal(5)})
    return replace(full, **changes)


def after(state: RiskState, *events: Any) -> RiskState:
    for event in events:
        state, _ = take_in(state, BTC, event)
    return state


def approved() -> RiskState:
    """10,000 USD, and 714.28 of it reserved for BTCUSDT by decision d1."""
    state, (verdict,) = allocate(
        after(RiskState(), account()),
        RiskConfig(),
        [Signal("d1", BTC, "BUY", 0.80)],
        bar_ts_ms=BAR,
        timeframe="1h",
        now_ms=CLOSE,
    )
    assert verdict.position_size_usd == Decimal("714.28")
    return state


def submitted(quantity: str = "7") -> OrderSubmitted:
    return OrderSubmitted("c1", "d1", Role.ENTRY, OrderSide.BUY, "market", Decimal(quantity), None, False)


def fill(quantity: str, *, price: str = "100", role: Role = Role.ENTRY, trade_id: str = "t1") -> OrderFilled:
    side = OrderSide.BUY if role is Role.ENTRY else OrderSide.SELL
    return OrderFilled(
        "c1", "d1", BAR, role, trade_id, side, Decimal(quantity), Decimal(price), Decimal(0), Decimal(0), CLOSE, 0
    )


def closed(pnl: str = "-5", closed_ts_ms: int = CLOSE) -> TradeClosed:
    return TradeClosed(
        "d1",
        BAR,
        OrderSide.BUY,
        Decimal(7),
        Decimal(100),
        Decimal(99),
        Decimal(1),
        Decimal(0),
        Decimal(pnl),
        Role.STOP,
        "stop",
        CLOSE,
        closed_ts_ms,
    )


def held(quantity: str = "7") -> AccountPosition:
    return AccountPosition(BTC, OrderSide.BUY, Decimal(quantity), Decimal(100), Decimal(quantity) * 100, Decimal(0))


def test_the_account_brings_balance_equity_positions_and_the_peak() -> None:
    state = after(RiskState(), account(equity=Decimal(10_500)), account(equity=Decimal(9_000), positions=(held(),)))
    assert state.initial_balance == Decimal(10_000)
    assert (state.peak_equity, state.drawdown) == (Decimal(10_500), Decimal(1_500) / Decimal(10_500))
    assert state.exposure_usd == Decimal(700)


@pytest.mark.parametrize("sequence", [6, 7])
def test_f28_an_account_update_that_is_not_newer_changes_nothing(sequence: int) -> None:
    state = after(RiskState(), account(sequence=7, positions=(held(),)))
    old = account(sequence=sequence, equity=Decimal(20_000), as_of_ms=CLOSE + DAY)
    assert take_in(state, BTC, old) == (state, ())


def test_f28_a_repeated_event_is_booked_once_and_so_few_ids_are_kept() -> None:
    state = approved()
    for event_id, event in [("e1", fill("3")), ("e1", fill("3")), ("e2", closed()), ("e2", closed())]:
        state, _ = take_in_once(state, event_id, BTC, event)
    assert len(state.trade_history) == 1
    assert state.booked == ("e1", "e2")
    for number in range(BOOKED_KEPT):
        state, _ = take_in_once(state, f"later{number}", BTC, closed("1"))
    assert len(state.booked) == BOOKED_KEPT
    assert "e2" not in state.booked


def test_a_short_positions_notional_counts_as_exposure() -> None:
    short = AccountPosition(BTC, OrderSide.SELL, Decimal(7), Decimal(100), Decimal(-700), Decimal(0))
    assert after(RiskState(), account(positions=(short,))).exposure_usd == Decimal(700)


def test_a_restarted_executor_does_not_take_back_the_bar_it_finished() -> None:
    state = after(RiskState(), account(), account(cause="start", bar_ts_ms=0))
    assert state.account is not None
    assert state.account.bar_ts_ms == BAR


@pytest.mark.parametrize("equity", ["NaN", "Infinity"])
def test_f21_an_equity_that_is_no_number_is_refused(equity: str) -> None:
    with pytest.raises(InvalidExecution):
        take_in(RiskState(), BTC, account(equity=Decimal(equity)))


@pytest.mark.parametrize(("price", "quantity"), [("0", "1"), ("100", "0"), ("NaN", "1")])
def test_f01_a_fill_without_price_or_quantity_is_refused(price: str, quantity: str) -> None:
    with pytest.raises(InvalidExecution):
        take_in(approved(), BTC, fill(quantity, price=price))


def test_a_reservation_becomes_position_fill_by_fill_and_is_never_counted_twice() -> None:
    state = after(approved(), submitted())
    assert state.exposure_usd == Decimal("714.28")
    state = after(state, fill("3"))
    assert state.exposure_usd == Decimal("714.28")
    state = after(state, fill("4", trade_id="t2"))
    assert (state.reservations, state.exposure_usd, state.daily_trades) == ({}, Decimal(700), 1)


def test_a_rest_that_is_canceled_gives_its_size_back_and_keeps_the_slot() -> None:
    state = after(approved(), submitted(), fill("3"))
    state, released = take_in(state, BTC, OrderCanceled("c1", "d1", Role.ENTRY, "canceled"))
    assert (state.exposure_usd, state.daily_trades, released) == (Decimal(300), 1, ())


@pytest.mark.parametrize(
    "ending",
    [
        OrderRejected("c1", "d1", Role.ENTRY, "-2010", "insufficient balance"),
        OrderCanceled("c1", "d1", Role.ENTRY, "expired"),
        account(as_of_ms=CLOSE + 60_001, sequence=1_000_000),  # made before the test runs, taken in last
    ],
)
def test_an_approval_that_ends_unfilled_gives_size_and_slot_back(ending: Any) -> None:
    state, released = take_in(approved(), BTC, ending)
    assert (state.reservations, state.daily_trades) == ({}, 0)
    assert [row.decision_id for row in released] == ["d1"]


def test_an_approval_lives_until_its_expiry_and_while_its_order_works() -> None:
    at_expiry = after(approved(), account(as_of_ms=CLOSE + 60_000))
    assert set(at_expiry.reservations) == {"d1"}
    working = after(approved(), submitted(), account(as_of_ms=CLOSE + HOUR))
    assert set(working.reservations) == {"d1"}


def test_a_slot_of_yesterday_is_not_given_back_today() -> None:
    state = after(approved(), account(as_of_ms=CLOSE + DAY))
    assert (state.reservations, state.daily_trades) == ({}, 0)
    busy_today = replace(approved(), day=CLOSE // DAY + 1, daily_trades=3)
    assert after(busy_today, OrderRejected("c1", "d1", Role.ENTRY, "x", "")).daily_trades == 3


def test_the_end_of_a_stop_order_does_not_touch_the_entrys_reservation() -> None:
    state = after(approved(), submitted(), OrderCanceled("c2", "d1", Role.STOP, "canceled"))
    assert set(state.reservations) == {"d1"}


def test_an_exit_fill_takes_the_position_down_before_the_account_says_so() -> None:
    opened = after(approved(), submitted(), fill("7"), account(positions=(held(),)))
    assert after(opened, fill("3", role=Role.STOP)).positions[BTC].quantity == Decimal(4)
    assert after(opened, fill("7", role=Role.STOP)).positions == {}


def test_a_closed_trade_frees_the_symbol_and_starts_the_cooldown() -> None:
    state = after(approved(), submitted(), fill("7"), closed(), account(wallet_balance=Decimal(9_995)))
    assert (state.positions, state.reservations) == ({}, {})
    assert state.trade_history[-1].position_size_usd == Decimal(700)
    _, (verdict,) = allocate(
        state, RiskConfig(), [Signal("d2", BTC, "BUY", 0.9)], bar_ts_ms=BAR, timeframe="1h", now_ms=CLOSE + 30_000
    )
    assert verdict.detail == "COOLDOWN_ACTIVE (59.5m remaining)"


def test_only_the_last_five_closed_trades_of_a_symbol_can_cool_it_down() -> None:
    state = after(after(RiskState(), account()), closed("-5", CLOSE - 6_000))
    for number in range(5):
        state = after(state, closed("1", CLOSE - 5_000 + number))
    _, (verdict,) = allocate(
        state, RiskConfig(), [Signal("d2", BTC, "BUY", 0.9)], bar_ts_ms=BAR, timeframe="1h", now_ms=CLOSE
    )
    assert verdict.approved


def test_f22_the_history_does_not_grow_without_bound() -> None:
    state = RiskState()
    for number in range(150):
        state = after(state, closed("1", CLOSE + number))
    assert len(state.trade_history) == 100
    assert state.trade_history[-1].closed_ts_ms == CLOSE + 149


def test_the_first_equity_of_a_utc_day_is_its_start() -> None:
    state = after(RiskState(), account(), account(equity=Decimal(9_000)))
    assert state.day_start_equity == Decimal(10_000)
    assert after(state, account(equity=Decimal(9_500), as_of_ms=CLOSE + DAY)).day_start_equity == Decimal(9_500)


def test_funding_alone_changes_nothing_until_the_account_says_so() -> None:
    state = approved()
    assert after(state, FundingPaid(Decimal(-1), CLOSE)) == state


def test_the_state_survives_its_encoding_unchanged() -> None:
    state = after(approved(), submitted(), fill("3"), account(positions=(held("3"),)), closed())
    assert decode_state(encode_state(state)) == state

"""The ledger on real SQLite: idempotent, ordered by state, exact."""

import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from quantum_common.contracts import (
    AccountUpdated,
    Envelope,
    FundingPaid,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    Producer,
    TradeClosed,
    envelope,
)
from quantum_common.domain.signal import OrderSide, Role
from recorder_svc.ledger import Ledger, accounts, closed_trades, fills, funding, orders, plain

BAR = 1_700_000_400_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path / 'deep' / 'ledger.sqlite'}")
    opened.create()
    yield opened
    opened.close()


def event(payload: msgspec.Struct, key: str) -> Envelope[Any]:
    return envelope(
        payload,
        producer=Producer("executor-svc", "1", "0"),
        produced_at_ms=BAR,
        symbol="BTCUSDT",
        timeframe="1h",
        bar_ts_ms=BAR,
        natural_key=key,
    )


def fill(trade_id: str, quantity: str, price: str = "100", fee: str = "0.1", pnl: str = "0") -> Envelope[Any]:
    amounts = [Decimal(text) for text in (quantity, price, fee, pnl)]
    payload = OrderFilled("c1", "d1", BAR, Role.ENTRY, trade_id, OrderSide.BUY, *amounts, BAR + 1, int(trade_id))
    return event(payload, trade_id)


SUBMITTED = event(
    OrderSubmitted("c1", "d1", Role.ENTRY, OrderSide.BUY, "market", Decimal("7.0"), None, False), "c1:submitted"
)
ACCEPTED = event(OrderAccepted("c1", "d1", Role.ENTRY, "v1"), "c1:accepted")
CANCELED = event(OrderCanceled("c1", "d1", Role.ENTRY, "rest canceled"), "c1:canceled")
CLOSED = event(
    TradeClosed(
        "d1",
        BAR,
        OrderSide.BUY,
        Decimal(7),
        Decimal(100),
        Decimal("101.5"),
        Decimal("1.41"),
        Decimal("-0.02"),
        Decimal("9.07"),
        Role.TAKE_PROFIT,
        "take_profit",
        BAR + 1,
        BAR + 2,
    ),
    "d1",
)
FUNDED = event(FundingPaid(Decimal("-0.02"), BAR), "f1")
ACCOUNT = event(AccountUpdated("bar", Decimal("10000.10"), Decimal(9_999), (), BAR, BAR, 3, {}), "3")
EVERYTHING = [SUBMITTED, ACCEPTED, fill("0", "3"), fill("1", "4"), CANCELED, CLOSED, FUNDED, ACCOUNT]
TABLES = (orders, fills, closed_trades, funding, accounts)


def contents(ledger: Ledger) -> list[list[dict[str, Any]]]:
    return [ledger.rows(select(table).order_by(next(iter(table.c)))) for table in TABLES]


def test_every_execution_leaves_its_row_in_plain_decimals(ledger: Ledger) -> None:
    ledger.write(EVERYTHING)
    [order], both_fills, [trade], [payment], [account] = contents(ledger)
    assert (order["status"], order["quantity"], order["venue_order_id"]) == ("canceled", "7", "v1")
    assert order["reason"] == "rest canceled"
    assert sorted(row["quantity"] for row in both_fills) == ["3", "4"]
    assert (trade["pnl"], trade["exit_role"], payment["amount"]) == ("9.07", "take_profit", "-0.02")
    assert (account["wallet_balance"], account["equity"], account["sequence"]) == ("10000.1", "9999", 3)


def test_what_is_delivered_twice_stands_once(ledger: Ledger) -> None:
    ledger.write(EVERYTHING)
    once = contents(ledger)
    ledger.write(EVERYTHING)
    ledger.write(EVERYTHING[2:5])
    assert contents(ledger) == once


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=4))
def test_f28_redelivery_after_any_crash_ends_in_the_same_ledger(tmp_path: Path, cuts: list[tuple[int, int]]) -> None:
    straight, crashed = Ledger("sqlite://"), Ledger("sqlite://")
    for target in (straight, crashed):
        target.create()
    straight.write(EVERYTHING)
    for start, stop in cuts:
        crashed.write(EVERYTHING[: max(start, stop)])
    crashed.write(EVERYTHING)
    assert contents(crashed) == contents(straight)
    straight.close()
    crashed.close()


def test_an_order_never_goes_back(ledger: Ledger) -> None:
    ledger.write([SUBMITTED, ACCEPTED, fill("0", "7")])
    ledger.write([ACCEPTED, SUBMITTED])
    assert ledger.newest("orders", 10)[0]["status"] == "filled"


def test_an_entry_refused_before_it_was_submitted_is_kept_with_its_reason(ledger: Ledger) -> None:
    ledger.write([event(OrderRejected("c9", "d9", Role.ENTRY, "MIN_QUANTITY", "0.0001"), "c9:rejected")])
    [order] = ledger.newest("orders", 10)
    assert (order["status"], order["reason"], order["quantity"]) == ("rejected", "MIN_QUANTITY", None)


def test_the_quantity_of_a_fill_is_not_taken_for_its_orders(ledger: Ledger) -> None:
    ledger.write([fill("0", "3")])
    assert ledger.newest("orders", 10)[0]["quantity"] is None


def test_a_failing_batch_leaves_nothing_behind(ledger: Ledger) -> None:
    nameless = msgspec.structs.replace(FUNDED, event_id=None)
    with pytest.raises(Exception, match="NOT NULL"):
        ledger.write([SUBMITTED, nameless])
    assert ledger.newest("orders", 10) == []


def test_the_file_is_in_wal_mode_and_readable_by_anybody_while_open(ledger: Ledger, tmp_path: Path) -> None:
    ledger.write(EVERYTHING)
    with sqlite3.connect(tmp_path / "deep" / "ledger.sqlite") as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert reader.execute("SELECT sum(CAST(quantity AS REAL)) FROM fills").fetchone() == (7.0,)
    reader.close()


def test_pnl_of_a_trade_adds_up_from_fills_fees_and_funding(ledger: Ledger) -> None:
    ledger.write([*EVERYTHING[:4], fill("2", "7", "101.5", "0.5", "10.5"), FUNDED])
    rows = ledger.rows(select(fills))
    gross = sum(Decimal(row["realized_pnl"]) for row in rows)
    fees = sum(Decimal(row["fee"]) for row in rows)
    [payment] = ledger.rows(select(funding))
    assert gross - fees + Decimal(payment["amount"]) == Decimal("9.78")


@pytest.mark.parametrize(
    ("value", "text"),
    [("0.10", "0.1"), ("1E+3", "1000"), ("100", "100"), ("-0.00", "0"), ("0E-8", "0"), ("1E-8", "0.00000001")],
)
def test_equal_amounts_are_the_same_text(value: str, text: str) -> None:
    assert plain(Decimal(value)) == plain(value) == text

"""The whole fleet, as a user runs it: real processes, a real server, real ccxt against the paper venue."""

import json
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from decimal import Decimal
from typing import Any

BARS, SYMBOL_COUNT, AGENT_COUNT = 120, 3, 4

Run = Any  # a Replay of conftest.py, which importlib mode cannot import


def per_bar(run: Run, stream: str, *kinds: str) -> Counter[tuple[str, int]]:
    return Counter((event["symbol"], event["bar_ts_ms"]) for event in run.events(stream) if event["kind"] in kinds)


def test_every_bar_and_symbol_has_exactly_one_event_of_every_stage(first: Run) -> None:
    features = per_bar(first, "features", "FeaturesComputed")
    predictions = per_bar(first, "predictions", "PredictionMade", "PredictionAbstained")
    decisions = per_bar(first, "decisions", "DecisionMade")
    verdicts = per_bar(first, "allocations", "PositionApproved", "PositionRejected")
    assert len(features) == BARS * SYMBOL_COUNT
    assert set(features.values()) == set(decisions.values()) == set(verdicts.values()) == {1}
    assert set(predictions.values()) == {AGENT_COUNT}
    assert features.keys() == predictions.keys() == decisions.keys() == verdicts.keys()


def test_the_summary_counts_what_the_archive_holds(first: Run) -> None:
    summary = first.summary
    assert summary["features"] == summary["decisions"] == summary["allocations"] == BARS * SYMBOL_COUNT
    assert summary["predictions"].keys() == {"xgb", "lgbm", "patchtst", "nhits"}
    for agent, votes in summary["predictions"].items():
        assert votes + summary["abstentions"][agent] == BARS * SYMBOL_COUNT
    assert summary["dead_letters"] == 0


def test_the_fleet_trades_and_every_way_out_of_a_position_occurs_or_is_open(first: Run) -> None:
    assert first.summary["approvals"] > 0
    assert first.summary["fills"] > first.summary["closed_trades"] > 0
    closed = [event["payload"] for event in first.events("executions") if event["kind"] == "TradeClosed"]
    reasons = {payload["exit_reason"] for payload in closed}
    assert reasons & {"stop", "take_profit"}
    assert reasons <= {"stop", "take_profit", "time_stop", "opposite_signal"}


def test_orders_exist_only_for_approvals(first: Run) -> None:
    approved = {e["payload"]["decision_id"] for e in first.events("allocations") if e["kind"] == "PositionApproved"}
    entries = {
        event["payload"]["decision_id"]
        for event in first.events("executions")
        if event["kind"] == "OrderSubmitted" and event["payload"]["role"] == "entry"
    }
    assert entries
    assert entries <= approved


def test_every_filled_entry_has_an_accepted_protective_stop(first: Run) -> None:
    filled, protected = set(), set()
    for event in first.events("executions"):
        payload = event["payload"]
        if event["kind"] == "OrderFilled" and payload["role"] == "entry":
            filled.add(payload["decision_id"])
        if event["kind"] == "OrderAccepted" and payload["role"] == "stop":
            protected.add(payload["decision_id"])
    assert filled
    assert filled == protected


def test_fills_never_exceed_what_was_approved(first: Run) -> None:
    approved = {
        event["payload"]["decision_id"]: Decimal(event["payload"]["position_size_usd"])
        for event in first.events("allocations")
        if event["kind"] == "PositionApproved"
    }
    spent: dict[str, Decimal] = defaultdict(Decimal)
    for event in first.events("executions"):
        payload = event["payload"]
        if event["kind"] == "OrderFilled" and payload["role"] == "entry":
            spent[payload["decision_id"]] += Decimal(payload["quantity"]) * Decimal(payload["price"])
    assert all(spent[decision] <= approved[decision] for decision in spent)


def test_the_ledger_sums_to_the_wallet_of_the_venue_to_the_cent(first: Run) -> None:
    with closing(sqlite3.connect(first.state_dir / "ledger.sqlite")) as ledger:
        fills = ledger.execute("select realized_pnl, fee from fills").fetchall()
        funding = ledger.execute("select amount from funding").fetchall()
    total = Decimal(10_000) + sum((Decimal(pnl) - Decimal(fee) for pnl, fee in fills), Decimal())
    total += sum((Decimal(amount) for (amount,) in funding), Decimal())
    assert abs(total - Decimal(first.summary["final_balance"])) < Decimal("0.01")
    assert first.summary["final_balance"] == venue_wallet(first)


def venue_wallet(run: Run) -> str:
    """Wallet balance in the venue's own database, not as the fleet reports it."""
    with closing(sqlite3.connect(run.state_dir / "exchange-sim.sqlite")) as venue:
        (body,) = venue.execute("select body from venue").fetchone()
    return str(json.loads(body)["wallet"])


def test_bad_candles_are_dead_lettered_with_a_reason_and_the_rest_goes_on(damaged: Run) -> None:
    bars = per_bar(damaged, "features", "FeaturesComputed")
    by_symbol = Counter(symbol for symbol, _ in bars)
    assert by_symbol == {"BTCUSDT": 12, "SOLUSDT": 12, "ETHUSDT": 12 - 4}
    assert damaged.summary["dead_letters"] == 3
    assert damaged.summary["decisions"] == damaged.summary["allocations"] == sum(by_symbol.values())
    log = (damaged.state_dir / "logs" / "feature-svc.log").read_text()
    for reason in ("high", "close", "volume"):
        assert reason in log


def test_the_same_run_twice_gives_the_same_digests(first: Run, again: Run) -> None:
    for digest in ("decisions_digest", "ledger_digest"):
        assert first.summary[digest] == again.summary[digest]


def test_other_dates_give_other_digests(first: Run, other_dates: Run) -> None:
    for digest in ("decisions_digest", "ledger_digest"):
        assert first.summary[digest] != other_dates.summary[digest]


def test_partitions_change_nothing_of_what_comes_out(other_dates: Run, partitioned: Run) -> None:
    assert partitioned.summary["decisions"] == other_dates.summary["decisions"] > 0
    assert partitioned.summary["fills"] > 0
    for digest in ("decisions_digest", "ledger_digest"):
        assert partitioned.summary[digest] == other_dates.summary[digest]


def test_a_finished_state_folder_gives_the_same_summary_again(market: Any, first: Run) -> None:
    kept = json.loads((first.state_dir / "summary.json").read_text())
    resumed = market.replay("first", 0, BARS, 20_300, QT_MIN_CONFIDENCE_THRESHOLD="0.40").summary
    for name in kept.keys() - {"bars_per_s", "wall_s"}:
        assert resumed[name] == kept[name], name

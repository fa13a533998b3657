"""Counts and digests of a run: what they contain, what they ignore, and that repetition does not move them."""

import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from quantum_common.bus import Entry, Received
from quantum_common.contracts import (
    AccountUpdated,
    ApprovalExpired,
    Candle,
    DecisionMade,
    Envelope,
    FeaturesComputed,
    OrderFilled,
    OrderSubmitted,
    PositionApproved,
    PositionRejected,
    PredictionAbstained,
    PredictionMade,
    Producer,
    TradeClosed,
    Vote,
    encode,
    envelope,
)
from quantum_common.domain.signal import Action, Intent, OrderSide, Role
from recorder_svc.archive import Archive
from recorder_svc.ledger import Ledger
from recorder_svc.summary import decisions_digest, ledger_digest, summarise

HOUR = 3_600_000
BAR = 19_700 * 24 * HOUR


def event(payload: msgspec.Struct, symbol: str = "BTCUSDT", bar: int = BAR, key: str = "", instance: str = "1") -> Any:
    return envelope(
        payload,
        producer=Producer("test", instance, "0"),
        produced_at_ms=int(instance) * 1000,
        symbol=symbol,
        timeframe="1h",
        bar_ts_ms=bar,
        natural_key=key,
    )


def decision(confidence: float = 0.7, **changes: Any) -> DecisionMade:
    votes = (
        Vote("xgb", Action.BUY, 0.7, (0.1, 0.2, 0.7), "v1", None),
        Vote("lgbm", None, 0.0, None, None, "collapsed"),
    )
    full = DecisionMade(
        action=Action.BUY,
        confidence=confidence,
        reason="meta_override_buy",
        use_meta=True,
        meta_action=Action.BUY,
        meta_confidence=0.7,
        base_ensemble_action=Action.HOLD,
        base_ensemble_confidence=0.1 + 0.2,
        consensus_strength=0.25,
        votes=votes,
        explanation=None,
        trigger="complete",
        input_event_ids=("a",),
        meta_version="v2",
        meta_model_version="m1",
        volatility=0.5,
        trend_strength=0.0,
    )
    return msgspec.structs.replace(full, **changes)


def test_the_digest_is_sha256_over_the_documented_line() -> None:
    line = {
        "action": "BUY",
        "bar_ts_ms": BAR,
        "base_ensemble_action": "HOLD",
        "base_ensemble_confidence": 0.30000000000000004,
        "confidence": 0.7,
        "consensus_strength": 0.25,
        "meta_confidence": 0.7,
        "reason": "meta_override_buy",
        "symbol": "BTCUSDT",
        "timeframe": "1h",
        "votes": [
            {"action": "BUY", "agent": "xgb", "probabilities": [0.1, 0.2, 0.7]},
            {"abstain_reason": "collapsed", "agent": "lgbm"},
        ],
    }
    text = json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n"
    assert decisions_digest([event(decision())]) == hashlib.sha256(text.encode()).hexdigest()


def test_the_digest_ignores_versions_instances_and_wall_time() -> None:
    same = decision(meta_model_version="m2", trigger="deadline", input_event_ids=(), explanation=None)
    assert decisions_digest([event(decision())]) == decisions_digest([event(same, instance="2")])


def test_the_digest_sees_the_last_bit_of_a_confidence() -> None:
    moved = decision(confidence=0.7000000000000001)
    assert decisions_digest([event(decision())]) != decisions_digest([event(moved)])


@given(st.permutations([(symbol, bar) for symbol in ("BTCUSDT", "ETHUSDT") for bar in range(3)]))
def test_the_digest_does_not_depend_on_the_order_of_arrival(order: list[tuple[str, int]]) -> None:
    def made(rows: list[tuple[str, int]]) -> list[Envelope[DecisionMade]]:
        return [event(decision(0.6 + bar / 10), symbol, BAR + bar * HOUR) for symbol, bar in rows]

    assert decisions_digest(made(order)) == decisions_digest(made(sorted(order)))


def fill(trade_id: str, **changes: Any) -> dict[str, Any]:
    full = OrderFilled(
        "c1", "d1", BAR, Role.ENTRY, trade_id, OrderSide.BUY, Decimal(1), Decimal(100), Decimal(0), Decimal(0), BAR, 0
    )
    return {**msgspec.structs.asdict(full), "symbol": "BTCUSDT", **changes}


def test_the_ledger_digest_knows_amounts_and_not_identities() -> None:
    base = ledger_digest([fill("1")], [])
    assert ledger_digest([fill("2", client_order_id="x", quantity="1.00")], []) == base
    assert ledger_digest([fill("1", price=Decimal("100.01"))], []) != base
    assert ledger_digest([fill("1", role=Role.STOP)], []) != base
    assert ledger_digest([], []) == hashlib.sha256().hexdigest()


def test_the_ledger_digest_orders_fills_by_market_time_symbol_role_and_sequence() -> None:
    rows = [
        fill("1", market_ts_ms=1),
        fill("2", market_ts_ms=1, sequence=1, price="101"),
        fill("3", market_ts_ms=1, symbol="ADAUSDT", price="102"),
        fill("4", market_ts_ms=0, price="103"),
    ]
    assert ledger_digest(rows, []) == ledger_digest(rows[::-1], [])


EVENTS = [
    ("features", event(FeaturesComputed(Candle(1, 1, 1, 1, 1), (0.0,) * 18, 0.5, 0.0, "h", 0, 1))),
    (
        "predictions",
        event(PredictionMade("xgb", Action.BUY, 0.7, (0.1, 0.2, 0.7), "v", "champion", 0.1), key="v:champion"),
    ),
    ("predictions", event(PredictionMade("xgb", Action.BUY, 0.7, (0.1, 0.2, 0.7), "w", "shadow", 0.1), key="w:shadow")),
    ("predictions", event(PredictionAbstained("nhits", "collapsed", ""), key="nhits")),
    ("decisions", event(decision())),
    ("decisions", event(decision(use_meta=False), "ETHUSDT")),
    (
        "allocations",
        event(
            PositionApproved(
                "d1", Intent.OPEN, Action.BUY, 0.7, Decimal(625), 0.0625, Decimal(12), 0.06, 0.02, 0.03, BAR, 0
            ),
            key="d1",
        ),
    ),
    ("allocations", event(PositionRejected("d2", "BUY", 0.6, "LOW_CONFIDENCE", "", 1), "ETHUSDT", key="d2")),
    ("allocations", event(ApprovalExpired("d0", Decimal(1)), key="d0")),
    (
        "executions",
        event(OrderSubmitted("c1", "d1", Role.ENTRY, OrderSide.BUY, "market", Decimal(1), None, False), key="s"),
    ),
    (
        "executions",
        event(
            OrderFilled(
                "c1", "d1", BAR, Role.ENTRY, "t", OrderSide.BUY, Decimal(1), Decimal(9), Decimal(0), Decimal(0), BAR, 0
            ),
            key="t",
        ),
    ),
    (
        "executions",
        event(
            TradeClosed(
                "d1",
                BAR,
                OrderSide.BUY,
                Decimal(1),
                Decimal(9),
                Decimal(10),
                Decimal(0),
                Decimal(0),
                Decimal(1),
                Role.EXIT,
                "time_stop",
                BAR,
                BAR + 1,
            ),
            key="d1",
        ),
    ),
    ("executions", event(AccountUpdated("bar", Decimal("10001.0"), Decimal(10_002), (), BAR, BAR, 1, {}), key="1")),
]


def recorded(folder: Path, events: list[tuple[str, Any]]) -> dict[str, Any]:
    archive, url = Archive(folder / "archive"), f"sqlite:///{folder / 'ledger.sqlite'}"
    batch = [Received(Entry(f"{{x}}:{stream}", "1-0", encode(item)), item) for stream, item in events]
    archive.append(archive.lines(batch))
    archive.close()
    ledger = Ledger(url)
    ledger.create()
    ledger.write(item for stream, item in events if stream == "executions")
    ledger.close()
    return summarise(folder / "archive", url)


def test_the_summary_counts_each_thing_once_and_shadows_not_at_all(tmp_path: Path) -> None:
    summary = recorded(tmp_path, EVENTS + EVENTS)
    digests = {summary.pop("decisions_digest"), summary.pop("ledger_digest")}
    assert summary == {
        "features": 1,
        "predictions": {"xgb": 1, "lgbm": 0, "patchtst": 0, "nhits": 0},
        "abstentions": {"xgb": 0, "lgbm": 0, "patchtst": 0, "nhits": 1},
        "decisions": 2,
        "overrides": 1,
        "allocations": 2,
        "approvals": 1,
        "orders": 1,
        "fills": 1,
        "closed_trades": 1,
        "open_positions": 0,
        "final_balance": "10001",
        "final_equity": "10002",
    }
    assert len(digests) == 2


def test_the_summary_counts_verdicts_only_and_closes_that_answer_a_decision_are_approvals(tmp_path: Path) -> None:
    def close(decision_id: str, reason: str) -> tuple[str, Any]:
        sums = (Decimal(0), 0.0, Decimal(0), 0.0, 0.0, 0.0)
        approved = PositionApproved(decision_id, Intent.CLOSE, Action.SELL, 0.7, *sums, BAR, 0, reason)
        return "allocations", event(approved, key=decision_id)

    summary = recorded(tmp_path, [close("d1", "APPROVED"), close("f1", "OPERATOR_FLATTEN")])
    assert (summary["allocations"], summary["approvals"]) == (1, 1)


def test_the_archives_digest_is_the_digest_of_the_decisions_in_memory(tmp_path: Path) -> None:
    made = [
        event(decision(0.5 + number / 1000), symbol, BAR + number * HOUR)
        for number in range(60)
        for symbol in ("ETHUSDT", "BTCUSDT")
    ]
    summary = recorded(tmp_path, [("decisions", item) for item in reversed(made)])
    assert summary["decisions"] == 120
    assert summary["decisions_digest"] == decisions_digest(made)


def test_an_empty_run_has_a_summary(tmp_path: Path) -> None:
    summary = summarise(tmp_path / "none", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    assert (summary["decisions"], summary["fills"], summary["final_balance"]) == (0, 0, "0")

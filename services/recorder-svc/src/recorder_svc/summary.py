"""What a run came to: counts and the two digests that must be equal wherever the same run is repeated.

No wall time, instance, version or order id enters a digest.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from sqlalchemy import func, select

from quantum_common.domain import AGENTS, Action
from recorder_svc.archive import days, read_day
from recorder_svc.ledger import Ledger, accounts, closed_trades, fills, orders, plain

OPERATOR_FLATTEN = "OPERATOR_FLATTEN"
"""Reason code of the exits that an operator ordered."""


class _Event(msgspec.Struct, frozen=True):
    event_id: str
    kind: str


class _PredictionPayload(msgspec.Struct, frozen=True):
    agent: str
    role: Literal["champion", "shadow"] = "champion"


class _PredictionEvent(msgspec.Struct, frozen=True):
    event_id: str
    kind: str
    payload: _PredictionPayload


class _Vote(msgspec.Struct, frozen=True):
    agent: str
    action: Action | None
    probabilities: tuple[float, float, float] | None
    abstain_reason: str | None


class _DecisionPayload(msgspec.Struct, frozen=True):
    action: Action
    confidence: float
    reason: str
    use_meta: bool
    meta_confidence: float | None
    base_ensemble_action: Action
    base_ensemble_confidence: float
    consensus_strength: float
    votes: tuple[_Vote, ...]


class _DecisionEvent(msgspec.Struct, frozen=True):
    """The part of a decision that counts; its explanation is not decoded."""

    event_id: str
    symbol: str
    timeframe: str
    bar_ts_ms: int
    payload: _DecisionPayload


class _AllocationPayload(msgspec.Struct, frozen=True):
    reason: str = ""


class _AllocationEvent(msgspec.Struct, frozen=True):
    event_id: str
    kind: str
    payload: _AllocationPayload


class Decision(Protocol):
    """An `Envelope[DecisionMade]`, or as much of one as the digest reads."""

    @property
    def symbol(self) -> str: ...
    @property
    def timeframe(self) -> str: ...
    @property
    def bar_ts_ms(self) -> int: ...
    @property
    def payload(self) -> Any: ...


def decisions_digest(decisions: Iterable[Decision]) -> str:
    """sha256 over one JSON line per decision, by (bar, symbol). For decisions in memory, as a backtest has them."""
    return _digest(map(_decision_line, sorted(decisions, key=_by_bar)))


def ledger_digest(filled: Iterable[Mapping[str, Any]], closed: Iterable[Mapping[str, Any]]) -> str:
    """sha256 over fills, then closed trades, by (market time, symbol, role, sequence).

    Rows have the field names of OrderFilled and TradeClosed, and `symbol`; amounts are decimals or their strings.
    """
    by_fill = sorted(filled, key=lambda row: (row["market_ts_ms"], row["symbol"], row["role"], row["sequence"]))
    by_close = sorted(closed, key=lambda row: (row["closed_ts_ms"], row["symbol"], row["exit_role"]))
    return _digest([*map(_fill_line, by_fill), *map(_trade_line, by_close)])


def summarise(archive_dir: Path, ledger_url: str) -> dict[str, Any]:
    """Counts and digests of everything archived. One day is in memory at a time, besides the ledger's rows.

    The caller adds what is not recorded: dead_letters, bars_per_s and wall_s.
    """
    return {**_archive_part(days(archive_dir)), **_ledger_part(ledger_url)}


def _archive_part(folders: Sequence[Path]) -> dict[str, Any]:
    predictions, abstentions = Counter[str](), Counter[str]()
    counts = Counter[str]()
    digest = hashlib.sha256()
    for day in folders:
        counts["features"] += sum(1 for _ in read_day(day, "features", _Event))
        for prediction in read_day(day, "predictions", _PredictionEvent):
            if prediction.payload.role == "champion":
                made = prediction.kind == "PredictionMade"
                (predictions if made else abstentions)[prediction.payload.agent] += 1
        for decision in _sorted_day(day):
            digest.update(_decision_line(decision))
            counts["decisions"] += 1
            counts["overrides"] += decision.payload.use_meta
        for allocation in read_day(day, "allocations", _AllocationEvent):
            verdict = _is_verdict(allocation)
            counts["allocations"] += verdict
            counts["approvals"] += verdict and allocation.kind == "PositionApproved"
    return {
        "features": counts["features"],
        "predictions": {agent: predictions[agent] for agent in AGENTS},
        "abstentions": {agent: abstentions[agent] for agent in AGENTS},
        **{name: counts[name] for name in ("decisions", "overrides", "allocations", "approvals")},
        "decisions_digest": digest.hexdigest(),
    }


def _is_verdict(allocation: _AllocationEvent) -> bool:
    """Whether it answers a decision. An expiry takes a verdict back, and no decision stands behind an operator's
    flatten: counted, they would break the law that every decision has exactly one allocation.
    """
    return allocation.kind != "ApprovalExpired" and allocation.payload.reason != OPERATOR_FLATTEN


def _sorted_day(day: Path) -> Iterator[_DecisionEvent]:
    yield from sorted(read_day(day, "decisions", _DecisionEvent), key=_by_bar)


def _by_bar(decision: Decision) -> tuple[int, str]:
    return decision.bar_ts_ms, decision.symbol


def _ledger_part(ledger_url: str) -> dict[str, Any]:
    ledger = Ledger(ledger_url)
    ledger.create()
    filled, closed = ledger.rows(select(fills)), ledger.rows(select(closed_trades))
    submitted = ledger.rows(select(func.count().label("n")).where(orders.c.quantity.is_not(None)))[0]["n"]
    newest = ledger.rows(select(accounts).order_by(accounts.c.as_of_ms.desc(), accounts.c.sequence.desc()).limit(1))
    ledger.close()
    last = newest[0] if newest else {"open_positions": 0, "wallet_balance": "0", "equity": "0"}
    return {
        "orders": submitted,
        "fills": len(filled),
        "closed_trades": len(closed),
        "open_positions": last["open_positions"],
        "final_balance": last["wallet_balance"],
        "final_equity": last["equity"],
        "ledger_digest": ledger_digest(filled, closed),
    }


def _digest(lines: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def _json_line(row: Mapping[str, Any]) -> bytes:
    """Keys sorted, floats by repr."""
    return json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _decision_line(decision: Decision) -> bytes:
    payload = decision.payload
    return _json_line(
        {
            "symbol": decision.symbol,
            "timeframe": decision.timeframe,
            "bar_ts_ms": decision.bar_ts_ms,
            "action": payload.action,
            "confidence": payload.confidence,
            "reason": payload.reason,
            "base_ensemble_action": payload.base_ensemble_action,
            "base_ensemble_confidence": payload.base_ensemble_confidence,
            "meta_confidence": payload.meta_confidence,
            "consensus_strength": payload.consensus_strength,
            "votes": [_vote(vote) for vote in payload.votes],
        }
    )


def _vote(vote: Any) -> dict[str, Any]:
    if vote.action is None:
        return {"agent": vote.agent, "abstain_reason": vote.abstain_reason}
    return {"agent": vote.agent, "action": vote.action, "probabilities": vote.probabilities}


def _fill_line(row: Mapping[str, Any]) -> bytes:
    return _ledger_line(row, role="role", price="price", fee="fee", pnl="realized_pnl")


def _trade_line(row: Mapping[str, Any]) -> bytes:
    return _ledger_line(row, role="exit_role", price="exit_price", fee="fees", pnl="pnl")


def _ledger_line(row: Mapping[str, Any], *, role: str, price: str, fee: str, pnl: str) -> bytes:
    return _json_line(
        {
            "decision_bar_ts_ms": row["decision_bar_ts_ms"],
            "role": row[role],
            "side": row["side"],
            "quantity": plain(row["quantity"]),
            "price": plain(row[price]),
            "fee": plain(row[fee]),
            "pnl": plain(row[pnl]),
        }
    )

"""What both dashboards show of the market and the account: prices, decisions, verdicts, money."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from monitor_svc.view_of_fleet import Source


class Bar(msgspec.Struct, frozen=True):
    ts_ms: int
    open: float
    high: float
    low: float
    close: float


class DecisionRow(msgspec.Struct, frozen=True):
    decision_id: str
    symbol: str
    bar_ts_ms: int
    action: str
    confidence: float
    reason: str
    verdict: str
    """APPROVED, the code of the rejection, or empty while there is none."""


class FillMark(msgspec.Struct, frozen=True):
    market_ts_ms: int
    side: str
    role: str
    price: Decimal
    quantity: Decimal


class Prices(msgspec.Struct, frozen=True):
    source: Source
    symbol: str | None
    symbols: tuple[str, ...]
    bar_ms: int
    bars: tuple[Bar, ...]
    """Oldest first."""
    decisions: tuple[DecisionRow, ...]
    """Those on the bars shown, oldest first."""
    fills: tuple[FillMark, ...]


class EquityPoint(msgspec.Struct, frozen=True):
    market_ts_ms: int
    equity_usd: Decimal
    balance_usd: Decimal


class Position(msgspec.Struct, frozen=True):
    symbol: str
    side: str
    quantity: Decimal
    entry_price: Decimal
    notional_usd: Decimal
    unrealised_pnl_usd: Decimal


class ClosedTrade(msgspec.Struct, frozen=True):
    symbol: str
    side: str
    pnl_usd: Decimal
    """Net of fees and funding."""
    exit_reason: str
    closed_ts_ms: int


class Account(msgspec.Struct, frozen=True):
    source: Source
    equity: tuple[EquityPoint, ...]
    """Oldest first; the last one is now."""
    positions: tuple[Position, ...]
    trades: tuple[ClosedTrade, ...]
    """Newest first."""


class VoteRow(msgspec.Struct, frozen=True):
    agent: str
    action: str | None
    """None: abstained."""
    confidence: float
    probabilities: tuple[float, float, float] | None
    """P(SELL), P(HOLD), P(BUY)."""
    model_version: str | None
    abstain_reason: str | None


class Contribution(msgspec.Struct, frozen=True):
    name: str
    value: float
    contribution: float
    """To the logit of the meta model's best class."""


class Explained(msgspec.Struct, frozen=True):
    row: DecisionRow
    made_age_s: float
    use_meta: bool
    trigger: str
    base_action: str
    base_confidence: float
    meta_action: str | None
    meta_confidence: float | None
    consensus_strength: float
    volatility: float
    trend_strength: float
    votes: tuple[VoteRow, ...]
    contributions: tuple[Contribution, ...]
    """All inputs, the largest first; empty when the meta model was not asked or is not linear."""
    bias: float
    verdict_detail: str
    """The risk verdict with its numbers; empty while there is none."""


class Decisions(msgspec.Struct, frozen=True):
    source: Source
    newest: tuple[DecisionRow, ...]
    """Newest first."""
    explained: Explained | None
    """The chosen decision, else the newest."""
    problem: str = ""
    """A chosen decision that is not held any more."""


class VerdictCount(msgspec.Struct, frozen=True):
    code: str
    count: int


class Verdicts(msgspec.Struct, frozen=True):
    source: Source
    counts: tuple[VerdictCount, ...]
    """In the window, the most frequent first."""

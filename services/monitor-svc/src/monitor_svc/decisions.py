"""Prices, decisions with their explanation, and the risk verdicts on them."""

from __future__ import annotations

from collections import Counter

from monitor_svc.facts import Facts, Market, Verdict
from monitor_svc.sources import seconds_since, stream_source
from monitor_svc.view_of_market import (
    Bar,
    Contribution,
    DecisionRow,
    Decisions,
    Explained,
    Prices,
    VerdictCount,
    Verdicts,
    VoteRow,
)
from quantum_common.contracts import DecisionMade, Envelope
from quantum_common.contracts.streams import ALLOCATIONS, DECISIONS, FEATURES
from quantum_common.domain.timeframe import timeframe_ms

NEWEST_LISTED = 12
NO_VERDICT = Verdict("", "")


def row_of(market: Market, event: Envelope[DecisionMade]) -> DecisionRow:
    made, verdict = event.payload, market.verdicts.get(event.event_id, NO_VERDICT)
    return DecisionRow(
        event.event_id, event.symbol, event.bar_ts_ms, made.action.value, made.confidence, made.reason, verdict.code
    )


def prices(facts: Facts, now_ms: int, live: bool, symbol: str | None) -> Prices:
    """One symbol's newest bars with the decisions and fills on them; an unknown symbol shows the first one."""
    market = facts.market
    symbols = tuple(sorted(market.bars))
    shown = symbol if symbol in market.bars else next(iter(symbols), None)
    bars = market.bars.get(shown or "", ())
    first_ms = bars[0].ts_ms if bars else 0
    return Prices(
        source=stream_source(facts, FEATURES, now_ms, live=live, also="decisions and executions streams"),
        symbol=shown,
        symbols=symbols,
        bar_ms=timeframe_ms(market.timeframe),
        bars=tuple(Bar(bar.ts_ms, bar.open, bar.high, bar.low, bar.close) for bar in bars),
        decisions=tuple(
            row_of(market, event)
            for event in market.decisions.values()
            if event.symbol == shown and event.bar_ts_ms >= first_ms
        ),
        fills=tuple(fill for fill in market.fills.get(shown or "", ()) if fill.market_ts_ms >= first_ms),
    )


def decisions(facts: Facts, now_ms: int, live: bool, decision_id: str | None) -> Decisions:
    """The newest decisions, and why the chosen one (or the newest) was made."""
    market = facts.market
    newest = sorted(market.decisions.values(), key=lambda event: (-event.bar_ts_ms, event.symbol))
    chosen = market.decisions.get(decision_id) if decision_id else (newest[0] if newest else None)
    return Decisions(
        source=stream_source(facts, DECISIONS, now_ms, live=live, also="allocations stream"),
        newest=tuple(row_of(market, event) for event in newest[:NEWEST_LISTED]),
        explained=explain(market, chosen, now_ms) if chosen else None,
        problem="" if chosen or not decision_id else "this decision is not among the newest any more",
    )


def explain(market: Market, event: Envelope[DecisionMade], now_ms: int) -> Explained:
    made, told = event.payload, event.payload.explanation
    contributions = (
        sorted(
            map(Contribution, told.feature_names, told.inputs, told.contributions),
            key=lambda each: -abs(each.contribution),
        )
        if told
        else []
    )
    return Explained(
        row=row_of(market, event),
        made_age_s=seconds_since(event.produced_at_ms, now_ms) or 0.0,
        use_meta=made.use_meta,
        trigger=made.trigger,
        base_action=made.base_ensemble_action.value,
        base_confidence=made.base_ensemble_confidence,
        meta_action=made.meta_action.value if made.meta_action else None,
        meta_confidence=made.meta_confidence,
        consensus_strength=made.consensus_strength,
        volatility=made.volatility,
        trend_strength=made.trend_strength,
        votes=tuple(
            VoteRow(
                vote.agent,
                vote.action.value if vote.action else None,
                vote.confidence,
                vote.probabilities,
                vote.model_version,
                vote.abstain_reason,
            )
            for vote in made.votes
        ),
        contributions=tuple(contributions),
        bias=told.bias if told else 0.0,
        verdict_detail=market.verdicts.get(event.event_id, NO_VERDICT).detail,
    )


def verdicts(facts: Facts, now_ms: int, live: bool) -> Verdicts:
    """How often each risk verdict was given in the window."""
    counts: Counter[str] = Counter()
    for tally in facts.market.in_window():
        counts.update(tally.verdicts)
    return Verdicts(
        source=stream_source(facts, ALLOCATIONS, now_ms, live=live),
        counts=tuple(VerdictCount(code, count) for code, count in counts.most_common()),
    )

"""What the services say of themselves: risk, meta layer, models, streams, health."""

from __future__ import annotations

from monitor_svc.documents import Change, RiskLimits, RiskStatus, Stream
from monitor_svc.facts import Answer, Facts, ServiceFacts
from monitor_svc.sources import HEARTBEAT_LIMIT_S, answer_source, seconds_since
from monitor_svc.view_of_fleet import (
    GroupState,
    LimitChange,
    MetaLayer,
    ModelRow,
    Models,
    Risk,
    ServiceRow,
    Services,
    Source,
    Streams,
    StreamState,
)
from quantum_common.domain.agents import AGENT_SERVICES
from quantum_common.domain.timeframe import decision_ts_ms

RECENT_TRADES = 20
DAY_S = 86_400.0
BESIDE_THE_LINE = ("trainer-svc", "exchange-sim")
"""Whose absence is no fault: no trainer in most replays, no paper venue where it is real."""


def risk(facts: Facts, now_ms: int) -> Risk:
    source = answer_source("governer-svc /api/risk/status", facts.risk, now_ms)
    status, limits = facts.risk.value, facts.limits.value
    return Risk(source) if status is None else _risk(source, status, limits)


def _risk(source: Source, status: RiskStatus, limits: RiskLimits | None) -> Risk:
    recent = status.trade_history[-RECENT_TRADES:]
    wins = sum(trade.pnl > 0 for trade in recent)
    return Risk(
        source=source,
        balance_usd=status.current_balance,
        peak_balance_usd=status.peak_balance,
        equity_usd=status.equity,
        initial_balance_usd=status.initial_balance,
        exposure_usd=status.exposure_usd,
        exposure_limit_usd=status.exposure_limit_usd,
        drawdown_pct=100 * status.drawdown if status.current_balance is not None else None,
        max_drawdown_pct=100 * limits.max_drawdown_pct if limits else None,
        wins=wins,
        recent_trades=len(recent),
        win_rate_pct=100 * wins / len(recent) if recent else None,
        trades_today=status.daily_trades,
        max_trades_today=status.max_daily_trades,
        trading_state=status.trading_state,
        emergency_stop=status.emergency_stop,
        last_change=_change(limits.changes[-1]) if limits and limits.changes else None,
    )


def _change(change: Change) -> LimitChange:
    what = ", ".join(f"{name} = {value}" for name, value in change.changes.items())
    return LimitChange(change.at_ms, change.who, change.why, what)


def meta_layer(facts: Facts, now_ms: int) -> MetaLayer:
    source = answer_source("meta-svc /api/ai/meta/status", facts.meta, now_ms)
    told = facts.meta.value
    if told is None:
        return MetaLayer(source)
    return MetaLayer(source, told.enabled, told.model_ready, told.version, told.total_predictions, told.override_rate)


def models(facts: Facts, now_ms: int, live: bool) -> Models:
    """Every served version; ages are market time, so a replay's are counted to its newest bar."""
    market = facts.market
    bar_ms = market.newest_bar_ms
    market_ms = now_ms if live else None if bar_ms is None else decision_ts_ms(bar_ms, market.timeframe)
    rows = [_model(agent, facts.services[service], market_ms) for agent, service in AGENT_SERVICES.items()]
    rows.append(_model("meta", facts.services["meta-svc"], market_ms))
    answers = [facts.services[service].info for service in (*AGENT_SERVICES.values(), "meta-svc")]
    newest = max(answers, key=lambda answer: answer.at_ms or 0)
    return Models(answer_source("/info of the agents and meta-svc", newest, now_ms), tuple(rows))


def _model(agent: str, seen: ServiceFacts, market_ms: int | None) -> ModelRow:
    info = seen.info.value
    if info is None:
        return ModelRow(agent, None, None, None, None, seen.alive.problem or seen.info.problem)
    model, age_days = info.model, None
    if model and model.labels_to_ms is not None and market_ms is not None:
        age_days = (market_ms - model.labels_to_ms) / 1000 / DAY_S
    return ModelRow(
        agent=agent,
        version=model.version if model else None,
        quality=model.quality if model else None,
        age_days=age_days,
        shadow_version=info.shadow.version if info.shadow else None,
        problem=seen.alive.problem or seen.info.problem or info.problem or "",
    )


def streams(facts: Facts, now_ms: int) -> Streams:
    told = facts.streams.value
    looked = Answer(told, told.looked_at_ms if told else None, facts.streams.problem or (told and told.problem) or "")
    return Streams(
        source=answer_source("recorder-svc /api/streams", looked, now_ms),
        streams=tuple(map(_stream, told.streams)) if told else (),
        alarms=tuple(alarm.text for alarm in told.alarms) if told else (),
    )


def _stream(told: Stream) -> StreamState:
    groups = tuple(
        GroupState(told.stream, row.group, row.missing, row.lag, row.pending, row.undelivered_age_s)
        for row in told.groups
    )
    return StreamState(told.stream, told.length, told.dead_letters, told.last_entry_age_s, groups)


def services(facts: Facts, now_ms: int) -> Services:
    """Health of every service that has a documented port."""
    newest = max((seen.alive.at_ms or 0 for seen in facts.services.values()), default=0)
    heard = Answer(True, newest or None, "" if newest else "no service has answered yet")
    return Services(
        source=answer_source("/health/live and /health/ready of every service", heard, now_ms),
        rows=tuple(_service(name, seen, now_ms) for name, seen in facts.services.items()),
    )


def _service(name: str, seen: ServiceFacts, now_ms: int) -> ServiceRow:
    age_s = seconds_since(seen.alive.at_ms, now_ms)
    version = seen.info.value.version if seen.info.value else None
    if age_s is None and name in BESIDE_THE_LINE:
        return ServiceRow(name, "not running", (), None, None)
    if age_s is None or age_s > HEARTBEAT_LIMIT_S:
        return ServiceRow(name, "down", (seen.alive.problem,), age_s, version)
    told = seen.readiness.value
    if told is None or seen.readiness.problem:  # what it said before is no answer to the question of now
        return ServiceRow(name, "not ready", (seen.readiness.problem,), age_s, version)
    if not told.ready:
        return ServiceRow(name, "not ready", told.reasons, age_s, version)
    return ServiceRow(name, "ready", (), age_s, version)

"""Who votes, and how varied the signals are. Counts are in market time; lamps are in wall time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from statistics import quantiles

from monitor_svc.facts import ABSTAINED, FIVE_MINUTES_MS, Facts, Market, window_bars
from monitor_svc.sources import HEARTBEAT_LIMIT_S, seconds_since, stream_source
from monitor_svc.view_of_fleet import Activity, AgentRow, Share, Variety, Window
from quantum_common.contracts.streams import DECISIONS, PREDICTIONS
from quantum_common.domain.timeframe import timeframe_ms

SHOWN = {
    "xgb-agent": "xgb-agent",
    "patchtst-agent": "patchtst-agent",
    "nhits-agent": "nhits-agent",
    "lgbm-agent": "lgbm-agent",
    "meta-svc": "meta-agent",
}
"""Service → its documented name, in the documented order."""
ACTIONS = ("BUY", "HOLD", "SELL")
VOTE_GRACE_MS = 5_000
"""A bar so young may still lack its votes; until then the one before it counts."""


def window(market: Market) -> Window:
    bars, bar_ms = window_bars(market.timeframe), timeframe_ms(market.timeframe)
    heading = "last 5 min" if bar_ms <= FIVE_MINUTES_MS else f"last {bars} bars"
    newest = market.newest_bar_ms
    return Window(heading, None if newest is None else newest - (bars - 1) * bar_ms, newest)


def activity(facts: Facts, now_ms: int, live: bool) -> Activity:
    return Activity(
        source=stream_source(facts, PREDICTIONS, now_ms, live=live, also="decisions stream, /health/live"),
        agents=tuple(agent_row(facts, service, now_ms) for service in SHOWN),
    )


def agent_row(facts: Facts, service: str, now_ms: int) -> AgentRow:
    tallies = facts.market.in_window()
    counts: Counter[str] = Counter()
    for tally in tallies:
        counts.update({what: number for (who, what), number in tally.outcomes.items() if who == service})
    reasons = {reason for tally in tallies for reason in tally.abstain_reasons.get(service, ())}
    abstentions = counts.pop(ABSTAINED, 0)
    why = why_red(facts, service, now_ms)
    return AgentRow(
        name=SHOWN[service],
        green=not why,
        why=why,
        heartbeat_age_s=seconds_since(facts.services[service].alive.at_ms, now_ms),
        predictions=counts.total(),
        actions={action: counts[action] for action in ACTIONS if counts[action]},
        abstentions=abstentions,
        abstain_reasons=tuple(sorted(reasons)),
    )


def why_red(facts: Facts, service: str, now_ms: int) -> str:
    """Empty = green: a heartbeat in the last 15 s, and a vote or abstention on the newest bar of every symbol."""
    alive = facts.services[service].alive
    age_s = seconds_since(alive.at_ms, now_ms)
    if age_s is None:
        return alive.problem or "no heartbeat yet"
    if age_s > HEARTBEAT_LIMIT_S:
        return f"no heartbeat for {age_s:.0f} s: {alive.problem}"
    if facts.market.newest_bar_ms is None:
        return "no bar has been published yet"
    silent = silent_symbols(facts.market, service, now_ms)
    return f"silent on the newest bar of {', '.join(silent)}" if silent else ""


def silent_symbols(market: Market, service: str, now_ms: int) -> list[str]:
    """Symbols of the newest bar on which the service owes a vote, an abstention or a decision."""
    newest, silent = market.newest_bar_ms, []
    for symbol, bars in sorted(market.bars.items()):
        owed = [bar for bar in bars if now_ms - bar.published_at_ms >= VOTE_GRACE_MS]
        last_vote_ms = market.last_vote_ms.get((service, symbol), -1)
        # Where every bar held is that young (a fast replay), any vote on one of them will do.
        due_ms = owed[-1].ts_ms if owed else bars[0].ts_ms
        if bars[-1].ts_ms == newest and last_vote_ms < due_ms:
            silent.append(symbol)
    return silent


def variety(facts: Facts, now_ms: int, live: bool) -> Variety:
    """Shares of the decisions' actions in the window."""
    counts: Counter[str] = Counter()
    p_hold: dict[str, list[float]] = {}
    for tally in facts.market.in_window():
        counts.update({what: number for (who, what), number in tally.outcomes.items() if who == "meta-svc"})
        for agent, values in tally.p_hold.items():
            p_hold.setdefault(agent, []).extend(values)
    numbers = [counts[action] for action in ACTIONS]
    return Variety(
        source=stream_source(facts, DECISIONS, now_ms, live=live),
        total=sum(numbers),
        shares=tuple(map(Share, ACTIONS, numbers, shares_pct(numbers))),
        hold_range=_widest(p_hold.values()),
    )


def shares_pct(counts: list[int]) -> list[float]:
    """Percent with one decimal that add up to 100.0: what rounding leaves goes to the largest remainders."""
    total = sum(counts)
    if not total:
        return [0.0] * len(counts)
    tenths = [count * 1000 // total for count in counts]
    remainders = sorted(range(len(counts)), key=lambda place: -(counts[place] * 1000 % total))
    for place in remainders[: 1000 - sum(tenths)]:
        tenths[place] += 1
    return [tenth / 10 for tenth in tenths]


def _widest(samples: Iterable[list[float]]) -> tuple[float, float] | None:
    """The range of the agent that varies most: pooled, agents that each say one thing would look varied."""
    cuts = [quantiles(values, n=20, method="inclusive") for values in samples if len(values) > 1]
    return max(((each[0], each[-1]) for each in cuts), key=lambda ends: ends[1] - ends[0], default=None)

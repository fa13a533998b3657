"""What the monitor has seen: bounded, newest wins. Events go in here, the view comes out of it (core.py)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from monitor_svc.documents import Info, MetaStatus, Readiness, RiskLimits, RiskStatus, StreamsStatus
from monitor_svc.view_of_market import Bar, ClosedTrade, EquityPoint, FillMark
from quantum_common.contracts import (
    AccountUpdated,
    DecisionMade,
    Envelope,
    FeaturesComputed,
    OrderFilled,
    PositionApproved,
    PositionRejected,
    PredictionAbstained,
    PredictionMade,
    TradeClosed,
)
from quantum_common.contracts.streams import ALLOCATIONS, DECISIONS, EXECUTIONS, FEATURES, PREDICTIONS, StreamSpec
from quantum_common.domain.agents import AGENT_SERVICES
from quantum_common.domain.timeframe import timeframe_ms

BARS_SHOWN = 72
DECISIONS_HELD = 500
FILLS_HELD = 500
TRADES_HELD = 50
EQUITY_HELD = 500
ABSTAINED = "abstained"
READ_STREAMS: tuple[StreamSpec, ...] = (FEATURES, PREDICTIONS, DECISIONS, ALLOCATIONS, EXECUTIONS)

FIVE_MINUTES_MS = 300_000
LONG_WINDOW_BARS = 24

T = TypeVar("T")


def window_bars(timeframe: str) -> int:
    """Bars of the last 5 minutes, or 24 where a bar is longer than that."""
    bar_ms = timeframe_ms(timeframe)
    return LONG_WINDOW_BARS if bar_ms > FIVE_MINUTES_MS else FIVE_MINUTES_MS // bar_ms


class Published(Bar, frozen=True):
    """A bar and the wall time at which its features were published."""

    published_at_ms: int


@dataclass
class BarTally:
    """Counts of one bar time over all symbols."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(service, action or ABSTAINED)."""
    abstain_reasons: dict[str, set[str]] = field(default_factory=dict)
    p_hold: dict[str, list[float]] = field(default_factory=dict)
    """By agent."""
    verdicts: Counter[str] = field(default_factory=Counter)


@dataclass
class Verdict:
    code: str
    detail: str


@dataclass
class Market:
    """Facts of the streams. `take` wants each stream in its order; streams may overtake each other."""

    timeframe: str
    bars: dict[str, deque[Published]] = field(default_factory=dict)
    tallies: dict[int, BarTally] = field(default_factory=dict)
    last_vote_ms: dict[tuple[str, str], int] = field(default_factory=dict)
    """(service, symbol) → newest bar voted, abstained or decided on."""
    decisions: dict[str, Envelope[DecisionMade]] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By decision id."""
    fills: dict[str, deque[FillMark]] = field(default_factory=dict)
    trades: deque[ClosedTrade] = field(default_factory=lambda: deque(maxlen=TRADES_HELD))
    equity: deque[EquityPoint] = field(default_factory=lambda: deque(maxlen=EQUITY_HELD))
    account: AccountUpdated | None = None
    newest_at_ms: dict[str, int] = field(default_factory=dict)
    """Kind of stream → wall time at which its newest event was made."""

    @property
    def newest_bar_ms(self) -> int | None:
        return max((bars[-1].ts_ms for bars in self.bars.values()), default=None)

    def take(self, spec: StreamSpec, event: Envelope[Any]) -> None:
        """Take an event in; bars of another timeframe are none of this fleet's."""
        self.newest_at_ms[spec.name] = max(self.newest_at_ms.get(spec.name, 0), event.produced_at_ms)
        if event.timeframe not in ("", self.timeframe):
            return
        match event.payload:
            case FeaturesComputed() as made:
                self._bar(event, made)
            case PredictionMade() as made if made.role == "champion":
                self._vote(event, AGENT_SERVICES.get(made.agent, made.agent), made.action)
                self._tally(event.bar_ts_ms).p_hold.setdefault(made.agent, []).append(made.probabilities[1])
            case PredictionAbstained() as made:
                service = AGENT_SERVICES.get(made.agent, made.agent)
                self._vote(event, service, ABSTAINED)
                self._tally(event.bar_ts_ms).abstain_reasons.setdefault(service, set()).add(made.reason)
            case DecisionMade() as made:
                self._vote(event, "meta-svc", made.action)
                self.decisions[event.event_id] = event
                _keep(self.decisions, DECISIONS_HELD)
            case PositionApproved() as made:
                size = f"close {event.symbol}" if made.intent == "close" else f"${made.position_size_usd:,.2f}"
                self._verdict(event, made.decision_id, made.reason, f"{made.reason} · {size}")
            case PositionRejected() as made:
                self._verdict(event, made.decision_id, made.reason, made.detail)
            case OrderFilled() as made:
                mark = FillMark(made.market_ts_ms, made.side.value, made.role.value, made.price, made.quantity)
                self.fills.setdefault(event.symbol, deque(maxlen=FILLS_HELD)).append(mark)
            case TradeClosed() as made:
                self.trades.append(
                    ClosedTrade(event.symbol, made.side.value, made.pnl, made.exit_reason, made.closed_ts_ms)
                )
            case AccountUpdated() as made:
                self._account(made)

    def _bar(self, event: Envelope[Any], made: FeaturesComputed) -> None:
        candle = made.candle
        bars = self.bars.setdefault(event.symbol, deque(maxlen=BARS_SHOWN))
        if not bars or event.bar_ts_ms > bars[-1].ts_ms:
            bars.append(
                Published(event.bar_ts_ms, candle.open, candle.high, candle.low, candle.close, event.produced_at_ms)
            )

    def _vote(self, event: Envelope[Any], service: str, outcome: str) -> None:
        self._tally(event.bar_ts_ms).outcomes[service, str(outcome)] += 1
        key = (service, event.symbol)
        self.last_vote_ms[key] = max(self.last_vote_ms.get(key, 0), event.bar_ts_ms)

    def _verdict(self, event: Envelope[Any], decision_id: str, code: str, detail: str) -> None:
        self._tally(event.bar_ts_ms).verdicts[code] += 1
        self.verdicts[decision_id] = Verdict(code, detail)
        _keep(self.verdicts, DECISIONS_HELD)

    def _account(self, made: AccountUpdated) -> None:
        # The newest of the stream counts, whatever its sequence: an executor that lost its state counts from the start.
        same_bar = self.account is not None and self.account.bar_ts_ms == made.bar_ts_ms
        if same_bar and self.equity:
            self.equity.pop()
        self.equity.append(EquityPoint(made.as_of_ms, made.equity, made.wallet_balance))
        self.account = made

    def _tally(self, bar_ts_ms: int) -> BarTally:
        if bar_ts_ms not in self.tallies:
            self.tallies[bar_ts_ms] = BarTally()
            for oldest in sorted(self.tallies)[: -window_bars(self.timeframe) - 2]:
                del self.tallies[oldest]
        return self.tallies.get(bar_ts_ms, BarTally())  # one too old to be kept is counted nowhere

    def in_window(self) -> list[BarTally]:
        """Tallies of the bars that are counted: market time, up to the newest bar."""
        newest = self.newest_bar_ms
        if newest is None:
            return []
        first = newest - window_bars(self.timeframe) * timeframe_ms(self.timeframe)
        return [tally for ts_ms, tally in self.tallies.items() if first < ts_ms <= newest]


def _keep(held: dict[str, Any], most: int) -> None:
    while len(held) > most:
        del held[next(iter(held))]


@dataclass
class Answer(Generic[T]):
    """The newest good answer to a question, and what is wrong since."""

    value: T | None = None
    at_ms: int | None = None
    """Wall time of the answer."""
    problem: str = "not asked yet"

    def good(self, value: T, at_ms: int) -> None:
        self.value, self.at_ms, self.problem = value, at_ms, ""

    def bad(self, problem: str) -> None:
        self.problem = problem


@dataclass
class ServiceFacts:
    alive: Answer[bool] = field(default_factory=Answer)
    """The last 200 of /health/live."""
    readiness: Answer[Readiness] = field(default_factory=Answer)
    info: Answer[Info] = field(default_factory=Answer)


@dataclass
class Facts:
    """All that is known, from both kinds of sources."""

    market: Market
    services: dict[str, ServiceFacts]
    read: Answer[bool] = field(default_factory=lambda: Answer(problem="not read yet"))
    """The last read of the streams."""
    risk: Answer[RiskStatus] = field(default_factory=Answer)
    limits: Answer[RiskLimits] = field(default_factory=Answer)
    meta: Answer[MetaStatus] = field(default_factory=Answer)
    streams: Answer[StreamsStatus] = field(default_factory=Answer)

    @classmethod
    def empty(cls, timeframe: str, services: Iterable[str]) -> Facts:
        return cls(Market(timeframe), {name: ServiceFacts() for name in services})

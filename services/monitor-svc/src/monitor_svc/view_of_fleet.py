"""What both dashboards show of the services: votes, signals, risk, models, streams, health."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec


class Source(msgspec.Struct, frozen=True):
    """Where a tile's facts come from, and how old they are."""

    name: str
    age_s: float | None
    """Since the newest fact of it was made; None: nothing has come yet."""
    stale: bool
    problem: str = ""
    """Why it is stale or empty."""


class Window(msgspec.Struct, frozen=True):
    """The bars that are counted, in market time."""

    heading: str
    """`last 5 min` or `last 24 bars`."""
    from_ms: int | None
    newest_bar_ms: int | None
    """Open time of the newest bar; None: no bar has been published."""


class AgentRow(msgspec.Struct, frozen=True):
    name: str
    green: bool
    why: str
    """Why it is red; empty when it is green."""
    heartbeat_age_s: float | None
    predictions: int
    """Votes (of meta-agent: decisions) in the window."""
    actions: dict[str, int]
    abstentions: int
    abstain_reasons: tuple[str, ...]


class Activity(msgspec.Struct, frozen=True):
    source: Source
    agents: tuple[AgentRow, ...]


class Share(msgspec.Struct, frozen=True):
    action: str
    count: int
    pct: float
    """One decimal; the shares of a whole add up to 100.0."""


class Variety(msgspec.Struct, frozen=True):
    source: Source
    total: int
    shares: tuple[Share, ...]
    """BUY, HOLD, SELL."""
    hold_range: tuple[float, float] | None
    """5 and 95 % quantile of P(HOLD) in the window, of the agent that varies most; None with fewer than two votes."""


class LimitChange(msgspec.Struct, frozen=True):
    at_ms: int
    who: str
    why: str
    what: str


class Risk(msgspec.Struct, frozen=True):
    source: Source
    balance_usd: Decimal | None = None
    peak_balance_usd: Decimal | None = None
    equity_usd: Decimal | None = None
    initial_balance_usd: Decimal | None = None
    exposure_usd: Decimal | None = None
    exposure_limit_usd: Decimal | None = None
    drawdown_pct: float | None = None
    max_drawdown_pct: float | None = None
    wins: int = 0
    recent_trades: int = 0
    win_rate_pct: float | None = None
    """Of the last 20 closed trades; None without one."""
    trades_today: int | None = None
    max_trades_today: int | None = None
    trading_state: str | None = None
    emergency_stop: bool | None = None
    last_change: LimitChange | None = None


class MetaLayer(msgspec.Struct, frozen=True):
    source: Source
    enabled: bool | None = None
    model_ready: bool | None = None
    version: str | None = None
    decisions: int | None = None
    override_rate: float | None = None
    """Fraction, since the last reset."""


class ModelRow(msgspec.Struct, frozen=True):
    agent: str
    version: str | None
    quality: str | None
    age_days: float | None
    """Market time since the model's last label ended."""
    shadow_version: str | None
    problem: str


class Models(msgspec.Struct, frozen=True):
    source: Source
    rows: tuple[ModelRow, ...]


class GroupState(msgspec.Struct, frozen=True):
    stream: str
    group: str
    missing: bool
    lag: int | None
    pending: int
    undelivered_age_s: float


class StreamState(msgspec.Struct, frozen=True):
    stream: str
    length: int
    dead_letters: int
    last_entry_age_s: float | None
    groups: tuple[GroupState, ...]


class Streams(msgspec.Struct, frozen=True):
    source: Source
    streams: tuple[StreamState, ...]
    alarms: tuple[str, ...]


ServiceState = Literal["ready", "not ready", "down", "not running"]


class ServiceRow(msgspec.Struct, frozen=True):
    name: str
    state: ServiceState
    """`not running`: a service beside the line that has not answered since the monitor started."""
    reasons: tuple[str, ...]
    heartbeat_age_s: float | None
    version: str | None


class Services(msgspec.Struct, frozen=True):
    source: Source
    rows: tuple[ServiceRow, ...]

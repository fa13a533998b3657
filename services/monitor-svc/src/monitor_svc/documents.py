"""What the monitor reads of the other services' answers; their other fields are ignored."""

from __future__ import annotations

from decimal import Decimal

import msgspec


class Readiness(msgspec.Struct, frozen=True):
    """/health/ready"""

    ready: bool
    reasons: tuple[str, ...] = ()


class Model(msgspec.Struct, frozen=True):
    version: str
    quality: str
    labels_to_ms: int | None = None


class Info(msgspec.Struct, frozen=True):
    """/info; the models are those of agents and meta-svc."""

    version: str
    model: Model | None = None
    shadow: Model | None = None
    problem: str | None = None


class Trade(msgspec.Struct, frozen=True):
    pnl: Decimal


class RiskStatus(msgspec.Struct, frozen=True):
    """governer-svc /api/risk/status"""

    initial_balance: Decimal | None
    current_balance: Decimal | None
    peak_balance: Decimal | None
    equity: Decimal | None
    trade_history: tuple[Trade, ...]
    daily_trades: int
    max_daily_trades: int
    drawdown: float
    """Fraction."""
    trading_state: str
    emergency_stop: bool
    exposure_usd: Decimal
    exposure_limit_usd: Decimal | None


class Change(msgspec.Struct, frozen=True):
    at_ms: int
    who: str
    why: str
    changes: dict[str, bool | int | float | str | None]


class RiskLimits(msgspec.Struct, frozen=True):
    """governer-svc /api/risk/config"""

    max_drawdown_pct: float
    """Fraction."""
    changes: tuple[Change, ...] = ()


class MetaStatus(msgspec.Struct, frozen=True):
    """meta-svc /api/ai/meta/status"""

    total_predictions: int
    override_rate: float
    model_ready: bool
    version: str
    enabled: bool = True


class Group(msgspec.Struct, frozen=True):
    group: str
    missing: bool
    pending: int = 0
    lag: int | None = 0
    undelivered_age_s: float = 0.0


class Stream(msgspec.Struct, frozen=True):
    stream: str
    length: int
    last_entry_age_s: float | None
    dead_letters: int
    groups: tuple[Group, ...]


class Alarm(msgspec.Struct, frozen=True):
    text: str


class StreamsStatus(msgspec.Struct, frozen=True):
    """recorder-svc /api/streams"""

    looked_at_ms: int | None
    problem: str | None
    streams: tuple[Stream, ...]
    alarms: tuple[Alarm, ...] = ()

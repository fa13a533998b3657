"""Risk limits: what operators set, and what they may change at run time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

import msgspec

from governer_svc.errors import InvalidRiskConfig


class TradingState(StrEnum):
    """What the account may do. An active emergency stop means at most REDUCING."""

    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    """Exits only."""
    HALTED = "HALTED"
    """Nothing leaves the governer; protective stops at the venue stay."""


Limit = float | int | bool | str | None


class RiskConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one account. Names ending in `pct` are fractions: 0.10 is ten percent. Raises InvalidRiskConfig."""

    max_position_size_pct: float = 0.10
    """Of the balance, one position."""
    max_total_exposure_pct: float = 0.50
    """Of the balance, open positions and reservations together."""
    max_drawdown_pct: float = 0.15
    """Of the peak equity; entries stop strictly above it."""
    min_confidence_threshold: float = 0.65
    kelly_fraction: float = 0.25
    cooldown_after_loss_minutes: float = 60.0
    max_daily_trades: int = 20
    """Entries approved per UTC day of the market clock."""
    emergency_stop: bool = False
    risk_per_trade_pct: float = 0.02
    """Of the position: the stop's distance from the entry price."""
    max_daily_loss_pct: float | None = None
    """Of the first equity seen in the UTC day; None = off."""
    max_signal_age_s: float = 60.0
    kelly_mode: Literal["fixed", "adaptive"] = "fixed"
    """adaptive: win rate and ratio of the account's own closed trades, shrunk to the two priors below."""
    win_rate: float = 0.55
    avg_win_loss_ratio: float = 1.5
    """Average win over average loss; also the take-profit distance over the stop distance."""
    trading_state: TradingState = TradingState.ACTIVE
    allow_short: bool = True
    """False on a spot market, where SELL only closes."""

    def __post_init__(self) -> None:
        for name in ("max_position_size_pct", "max_total_exposure_pct", "max_drawdown_pct", "kelly_fraction"):
            _require(0 < getattr(self, name) <= 1, name, "in (0, 1]")
        for name in ("risk_per_trade_pct", "win_rate"):
            _require(0 < getattr(self, name) < 1, name, "in (0, 1)")
        for name in ("max_signal_age_s", "avg_win_loss_ratio"):
            _require(0 < getattr(self, name) < math.inf, name, "above 0")
        for name in ("cooldown_after_loss_minutes", "max_daily_trades"):
            _require(0 <= getattr(self, name) < math.inf, name, "0 or more")
        target = self.risk_per_trade_pct * self.avg_win_loss_ratio
        _require(target < 1, "risk_per_trade_pct × avg_win_loss_ratio", "below 1: a short's target is a price")
        _require(0 <= self.min_confidence_threshold <= 1, "min_confidence_threshold", "in [0, 1]")
        loss = self.max_daily_loss_pct
        _require(loss is None or 0 < loss <= 1, "max_daily_loss_pct", "in (0, 1], or null for off")

    @property
    def effective_state(self) -> TradingState:
        if self.emergency_stop and self.trading_state is TradingState.ACTIVE:
            return TradingState.REDUCING
        return self.trading_state

    @property
    def max_signal_age_ms(self) -> int:
        return round(self.max_signal_age_s * 1000)


def with_overrides(base: RiskConfig, overrides: Mapping[str, Limit]) -> RiskConfig:
    """`base` with some fields replaced. Raises InvalidRiskConfig for an unknown name, a wrong type or range."""
    unknown = set(overrides) - set(RiskConfig.__struct_fields__)
    if unknown:
        raise InvalidRiskConfig(f"unknown limit: {', '.join(sorted(unknown))}")
    try:
        return msgspec.convert({**msgspec.structs.asdict(base), **overrides}, RiskConfig)
    except msgspec.ValidationError as error:
        raise InvalidRiskConfig(str(error)) from error


def _require(holds: bool, name: str, range_text: str) -> None:
    if not holds:
        raise InvalidRiskConfig(f"{name} must be {range_text}")

"""Settings of the risk service: the limits it starts with. Operators' changes at run time come on top."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import msgspec
from pydantic import Field

from governer_svc.config import RiskConfig, TradingState, with_overrides
from governer_svc.errors import InvalidRiskConfig
from quantum_common.service import FleetSettings

_DEFAULT = RiskConfig()


class Settings(FleetSettings):
    """One field per limit of RiskConfig, with its defaults and units."""

    service: ClassVar[str] = "governer-svc"

    max_position_size_pct: float = _DEFAULT.max_position_size_pct
    """Fraction of the balance in one position."""
    max_total_exposure_pct: float = _DEFAULT.max_total_exposure_pct
    """Fraction of the balance in all positions and reservations."""
    max_drawdown_pct: float = _DEFAULT.max_drawdown_pct
    """Fall of equity from its peak above which nothing opens."""
    min_confidence_threshold: float = _DEFAULT.min_confidence_threshold
    """Decisions below it are rejected."""
    kelly_fraction: float = _DEFAULT.kelly_fraction
    """Share of the Kelly size that is taken."""
    cooldown_after_loss_minutes: float = _DEFAULT.cooldown_after_loss_minutes
    """Rest of a symbol after a losing trade."""
    max_daily_trades: int = _DEFAULT.max_daily_trades
    """Entries per UTC day."""
    emergency_stop: bool = _DEFAULT.emergency_stop
    """true: start with the emergency stop on."""
    risk_per_trade_pct: float = _DEFAULT.risk_per_trade_pct
    """Distance of the protective stop, fraction of the price."""
    max_daily_loss_pct: float | None = _DEFAULT.max_daily_loss_pct
    """Loss of a UTC day above which nothing opens; off when empty."""
    max_signal_age_s: float = _DEFAULT.max_signal_age_s
    """Decisions and account states older than this are not acted on."""
    win_rate: float = _DEFAULT.win_rate
    """p of the Kelly formula."""
    avg_win_loss_ratio: float = _DEFAULT.avg_win_loss_ratio
    """b of the Kelly formula, and take-profit over stop distance."""
    trading_state: TradingState = _DEFAULT.trading_state
    """ACTIVE, REDUCING (exits only) or HALTED."""
    kelly_mode: Literal["fixed", "adaptive"] = Field(_DEFAULT.kelly_mode, validation_alias="KELLY_MODE")
    """fixed, or adaptive: p and b from the account's own closed trades, shrunk to those above."""
    market: Literal["swap", "spot"] = "swap"
    """On spot, SELL only closes."""

    @property
    def risk_config(self) -> RiskConfig:
        """Raises InvalidRiskConfig for a limit outside its range; the message names the setting."""
        limits = {name: getattr(self, name) for name in RiskConfig.__struct_fields__ if name in type(self).model_fields}
        try:
            return with_overrides(_DEFAULT, msgspec.to_builtins({**limits, "allow_short": self.market == "swap"}))
        except InvalidRiskConfig as error:
            message = str(error)
            for name in limits:
                message = message.replace(name, f"QT_{name.upper()}")
            raise InvalidRiskConfig(message) from error

    @property
    def mirror_path(self) -> Path:
        return self.state_dir / "governer_state.json"

"""HTTP of the risk service. Mutations need the bearer token."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from governer_svc.config import Limit, TradingState
from governer_svc.core import PositionAllocation
from governer_svc.errors import InvalidRiskConfig
from governer_svc.store import RiskStore
from governer_svc.view import status_document
from quantum_common.bus import BusUnavailable
from quantum_common.service import FleetSettings, require_token


class Backend(Protocol):
    """What the routes need of the service."""

    @property
    def store(self) -> RiskStore: ...
    async def refresh(self) -> None: ...
    async def change_limits(self, changes: dict[str, Limit], *, who: str, why: str, flatten: bool = False) -> None: ...
    def what_if(self, symbol: str, action: str, confidence: float) -> PositionAllocation: ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class LimitsPatch(_Body):
    """New values of some limits, and who changes them why. Names ending in `pct` are fractions."""

    reason: str = Field(min_length=1, max_length=500)
    who: str = Field("operator", min_length=1, max_length=100)
    max_position_size_pct: float | None = None
    max_total_exposure_pct: float | None = None
    max_drawdown_pct: float | None = None
    min_confidence_threshold: float | None = None
    kelly_fraction: float | None = None
    cooldown_after_loss_minutes: float | None = None
    max_daily_trades: int | None = None
    risk_per_trade_pct: float | None = None
    max_daily_loss_pct: float | None = None
    """null turns the check off."""
    max_signal_age_s: float | None = None
    kelly_mode: str | None = None
    win_rate: float | None = None
    avg_win_loss_ratio: float | None = None
    trading_state: TradingState | None = None


class EmergencyStop(_Body):
    active: bool
    reason: str = Field(min_length=1, max_length=500)
    flatten: bool = False
    """Also close every open position."""
    who: str = Field("operator", min_length=1, max_length=100)


class WhatIf(_Body):
    symbol: str = Field(min_length=1, max_length=32)
    action: str = Field(max_length=16)
    confidence: float


def router(risk: Backend, settings: FleetSettings) -> APIRouter:
    """Routes under /api/risk."""

    async def fresh() -> None:
        try:
            await risk.refresh()
        except BusUnavailable as error:
            raise HTTPException(503, f"the risk state cannot be read: {error}") from error

    routes = APIRouter(prefix="/api/risk", tags=["risk"], dependencies=[Depends(fresh)])
    guard = Depends(require_token(settings))

    def config_document() -> dict[str, Any]:
        state = risk.store.state
        document: dict[str, Any] = msgspec.to_builtins(risk.store.config)
        return {
            **document,
            "changed_at_run_time": sorted(state.overrides),
            "changes": msgspec.to_builtins(state.changes),
        }

    async def change(changes: dict[str, Limit], who: str, why: str, flatten: bool = False) -> None:
        try:
            await risk.change_limits(changes, who=who, why=why, flatten=flatten)
        except InvalidRiskConfig as error:
            raise HTTPException(422, str(error)) from error
        except BusUnavailable as error:
            raise HTTPException(503, f"not changed, or not known to be: {error}") from error

    @routes.get("/status")
    async def status() -> dict[str, Any]:
        """Balance, drawdown, exposure, positions and what is reserved."""
        return status_document(risk.store.state, risk.store.config)

    @routes.get("/config")
    async def config() -> dict[str, Any]:
        """The limits in force, and the changes made at run time, oldest first."""
        return config_document()

    @routes.patch("/config", dependencies=[guard])
    async def patch_config(body: LimitsPatch) -> dict[str, Any]:
        """Change limits from the next bar on; 422 and no change when one is out of range."""
        changes = body.model_dump(mode="json", exclude_unset=True, exclude={"reason", "who"})
        if not changes:
            raise HTTPException(422, "name at least one limit")
        await change(changes, body.who, body.reason)
        return config_document()

    @routes.post("/emergency_stop", dependencies=[guard])
    async def emergency_stop(body: EmergencyStop) -> dict[str, Any]:
        """Stop or resume entries; exits still pass. With `flatten`, every position is closed as well."""
        await change({"emergency_stop": body.active}, body.who, body.reason, body.flatten)
        return status_document(risk.store.state, risk.store.config)

    @routes.post("/allocate")
    async def what_if(body: WhatIf) -> dict[str, Any]:
        """The verdict on an invented decision at the close of the newest bar; nothing is reserved."""
        verdict = risk.what_if(body.symbol.upper(), body.action.upper(), body.confidence)
        document: dict[str, Any] = msgspec.to_builtins(verdict)
        return document

    return routes

"""HTTP of meta-svc: status, reset, what-if, and the decisions already made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from meta_svc.core import Outcome
from meta_svc.errors import MissingProbabilities
from meta_svc.question import Question, Regime
from meta_svc.result import as_dict
from quantum_common.domain import Action

Share = Annotated[float, Field(ge=0, le=1)]
AgentName = Literal["xgb", "lgbm", "nhits", "patchtst"]


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


class VoteIn(BaseModel):
    """A vote to try. `action` in any case; `confidence` is its probability; v2p needs all three probabilities."""

    model_config = ConfigDict(extra="forbid")

    action: Annotated[Action, BeforeValidator(_upper)]
    confidence: Share
    probabilities: tuple[Share, Share, Share] | None = None
    """P(SELL), P(HOLD), P(BUY)."""


class RegimeIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    volatility: float | None = Field(None, ge=0, le=1)
    trend_strength: float | None = Field(None, ge=-1, le=1)


class WhatIf(BaseModel):
    """What would be decided? An agent left out (or null) abstains."""

    model_config = ConfigDict(extra="forbid")

    symbol: str = Field(min_length=1, max_length=32)
    base_predictions: dict[AgentName, VoteIn | None]
    regime_info: RegimeIn = RegimeIn()

    def question(self) -> Question:
        votes = {
            str(agent): None if vote is None else (vote.action, vote.confidence)
            for agent, vote in self.base_predictions.items()
        }
        probabilities = {
            str(agent): vote.probabilities
            for agent, vote in self.base_predictions.items()
            if vote is not None and vote.probabilities is not None
        }
        return Question(votes, Regime(self.regime_info.volatility, self.regime_info.trend_strength), probabilities)


class Backend(Protocol):
    """What the routes need of the service."""

    async def status(self) -> dict[str, Any]: ...
    async def reset_stats(self) -> dict[str, Any]: ...
    def what_if(self, question: Question) -> Outcome: ...
    async def decisions(self, symbol: str | None, limit: int) -> list[dict[str, Any]]: ...


def router(backend: Backend, reset_guard: Callable[..., Any] | None) -> APIRouter:
    """`reset_guard` is the dependency that checks a token, None when the reset needs none."""
    routes = APIRouter(prefix="/api/ai/meta", tags=["meta"])

    @routes.get("/status")
    async def status() -> dict[str, Any]:
        """The fleet-wide statistics since the last reset."""
        return await backend.status()

    @routes.post("/reset_stats", dependencies=[Depends(reset_guard)] if reset_guard else [])
    async def reset_stats() -> dict[str, Any]:
        """Zero the counters; returns the new status."""
        return await backend.reset_stats()

    @routes.post("/predict")
    async def predict(body: WhatIf) -> dict[str, Any]:
        """What would be decided: the same code as for a bar, but nothing is published or counted."""
        question = body.question()
        try:
            outcome = backend.what_if(question)
        except MissingProbabilities as error:
            raise HTTPException(422, str(error)) from error
        return {"symbol": body.symbol, **as_dict(outcome, question.votes)}

    @routes.get("/decisions")
    async def decisions(
        symbol: str | None = Query(None, max_length=32), limit: int = Query(50, ge=1, le=500)
    ) -> list[dict[str, Any]]:
        """Decisions made, newest first."""
        return await backend.decisions(symbol.upper() if symbol else None, limit)

    return routes

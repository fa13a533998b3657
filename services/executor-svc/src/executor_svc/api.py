"""HTTP of the executor: what it holds, and the order to close everything."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from executor_svc.errors import StandsBy, Superseded, VenueUnreachable
from executor_svc.executor import Executor
from executor_svc.settings import ExecutorSettings
from quantum_common.bus import BusUnavailable
from quantum_common.service import require_token

log = logging.getLogger(__name__)


class FlattenOrder(BaseModel):
    """Who closes everything, and why: for the log."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("not said", min_length=1, max_length=500)
    who: str = Field("operator", min_length=1, max_length=100)


class Flattened(BaseModel):
    positions: int
    """How many positions were being closed."""


def router(settings: ExecutorSettings, executor: Executor) -> APIRouter:
    async def fresh() -> None:
        try:
            await executor.refresh()
        except BusUnavailable as error:
            raise HTTPException(503, f"the book cannot be read: {error}") from error

    routes = APIRouter(prefix="/api/execution", tags=["execution"], dependencies=[Depends(fresh)])

    @routes.get("/orders")
    async def orders() -> dict[str, Any]:
        """Live orders, and the most recent finished ones (the ledger has all)."""
        book = executor.journal.book
        return {"live": _plain(list(book.orders.values())), "recent": _plain(book.recent_orders)}

    @routes.get("/positions")
    async def positions() -> dict[str, Any]:
        """Positions with what has been booked on them; `drifts`: what the venue has and the book cannot explain."""
        book = executor.journal.book
        return {"positions": _plain(list(book.positions.values())), "drifts": _plain(book.drifts)}

    @routes.get("/trades")
    async def trades() -> dict[str, Any]:
        """The most recent closed trades, oldest first (the ledger has all)."""
        return {"trades": _plain(executor.journal.book.recent_trades)}

    @routes.post("/flatten", dependencies=[Depends(require_token(settings))])
    async def flatten(order: FlattenOrder | None = None) -> Flattened:
        """Close every position at market. 503: the venue does not answer; the closing goes on by itself."""
        said = order or FlattenOrder()
        log.warning("[EXECUTOR] flatten by %r: %r", said.who, said.reason)
        try:
            return Flattened(positions=await executor.flatten())
        except VenueUnreachable as error:
            raise HTTPException(503, "the venue does not answer; positions are closed as soon as it does") from error
        except StandsBy as error:
            detail = f"{error}: ask the one that does, or the governer's emergency stop with flatten"
            raise HTTPException(503, detail) from error
        except (BusUnavailable, Superseded) as error:
            raise HTTPException(503, f"not done, or not known to be: ask again ({error})") from error

    return routes


def _plain(value: Any) -> Any:
    """Structs as JSON-able values; decimals as strings."""
    return msgspec.to_builtins(value, enc_hook=_text)


def _text(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise NotImplementedError(type(value))

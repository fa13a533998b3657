"""HTTP of the recorder: the newest rows of the ledger, and what the watch sees."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from sqlalchemy.exc import OperationalError

from recorder_svc.ledger import Ledger
from recorder_svc.watch import Watch

Limit = Annotated[int, Query(ge=1, le=1000)]
Symbol = Annotated[str | None, Query(max_length=32)]


def router(ledger: Ledger) -> APIRouter:
    """Routes under /api/ledger. Amounts are decimal strings, times UTC milliseconds."""
    routes = APIRouter(prefix="/api/ledger", tags=["ledger"])

    async def newest(name: str, limit: int, symbol: str | None) -> list[dict[str, Any]]:
        try:
            return await asyncio.to_thread(ledger.newest, name, limit, symbol.upper() if symbol else None)
        except OperationalError as error:
            raise HTTPException(503, f"the ledger cannot be read: {error.orig}") from error

    @routes.get("/trades")
    async def trades(symbol: Symbol = None, limit: Limit = 100) -> list[dict[str, Any]]:
        """Closed trades, newest first."""
        return await newest("trades", limit, symbol)

    @routes.get("/fills")
    async def fills(symbol: Symbol = None, limit: Limit = 100) -> list[dict[str, Any]]:
        """Fills, newest first."""
        return await newest("fills", limit, symbol)

    @routes.get("/orders")
    async def orders(symbol: Symbol = None, limit: Limit = 100) -> list[dict[str, Any]]:
        """Orders with the furthest state each one reached, newest first."""
        return await newest("orders", limit, symbol)

    return routes


def streams_router(watch: Watch) -> APIRouter:
    """`GET /api/streams`."""
    routes = APIRouter(prefix="/api/streams", tags=["streams"])

    @routes.get("")
    async def streams() -> dict[str, Any]:
        """Every stream and group as last looked at, and the alarms that are on (docs/guides/streams.md)."""
        return watch.document()

    return routes

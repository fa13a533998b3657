"""`GET /api/monitor/view`: the view as JSON, for scripts and for `quantum monitor`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Response

from monitor_svc.core import Choice
from monitor_svc.view import View, encode_view

Symbol = Annotated[str | None, Query(max_length=32)]
DecisionId = Annotated[str | None, Query(max_length=64)]


def router(view: Callable[[Choice], View]) -> APIRouter:
    """Routes under /api/monitor."""
    routes = APIRouter(prefix="/api/monitor", tags=["monitor"])

    @routes.get("/view")
    async def the_view(symbol: Symbol = None, decision: DecisionId = None) -> Response:
        """Everything both dashboards show. Money as decimal strings, ages in seconds, null = unknown."""
        return Response(encode_view(view(Choice(symbol, decision))), media_type="application/json")

    return routes

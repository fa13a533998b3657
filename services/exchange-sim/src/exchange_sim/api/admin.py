"""The market clock's own routes: nothing but `advance` moves the venue's time."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from exchange_sim import account, metrics
from exchange_sim.api.routes import reply
from exchange_sim.errors import VenueError
from exchange_sim.settings import SimSettings
from exchange_sim.venue import Venue
from quantum_common.service import require_token


class Advance(msgspec.Struct, frozen=True):
    """Where the clock should go, UTC ms."""

    to_ms: int


class Advanced(msgspec.Struct, frozen=True):
    """Where the clock stands. `halted`: a resting order filled or triggered; call again to go on."""

    now_ms: int
    halted: bool
    last_trade_id: int


def admin_router(venue: Venue, settings: SimSettings) -> APIRouter:
    """/sim/advance and /sim/status. Where the fleet has a token (QT_API_TOKEN), advancing needs it."""
    router = APIRouter(prefix="/sim", tags=["clock"])
    guard = require_token(settings)

    @router.post("/advance")
    async def advance(request: Request) -> Response:
        if settings.api_token is not None:
            guard(request)
        try:
            to_ms = msgspec.json.decode(await request.body(), type=Advance).to_ms
            halted = venue.advance(to_ms)
            metrics.HALTS.inc(halted)
        except msgspec.DecodeError as error:
            return reply({"code": -1130, "msg": str(error)}, 400)
        except VenueError as error:
            return reply({"code": error.code, "msg": error.message}, error.http_status)
        return reply(Advanced(venue.state.now_ms, halted, venue.state.last_trade_id))

    @router.get("/status")
    async def status() -> dict[str, Any]:
        return status_of(venue)

    return router


def status_of(venue: Venue) -> dict[str, Any]:
    """Market time, range of the data, and the account in short. Money as decimal strings, USDT."""
    state, market = venue.state, venue.world.market
    return {
        "now_ms": state.now_ms,
        "symbols": list(market.symbols),
        "timeframe": market.timeframe,
        "first_ts_ms": market.first_ms,
        "last_ts_ms": market.last_ms,
        "ranges": {name: [symbol.first_ms, symbol.last_ms] for name, symbol in market.symbols.items()},
        "last_trade_id": state.last_trade_id,
        "initial_balance": f"{state.initial_balance:f}",
        "wallet_balance": f"{state.wallet:f}",
        "equity": f"{account.equity(state, venue.mark):f}",
        "open_orders": len(state.open_orders),
        "open_algo_orders": len(state.open_algos),
        "open_positions": sum(1 for position in state.positions.values() if position.quantity),
    }

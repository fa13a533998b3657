"""Wiring of the paper venue."""

from __future__ import annotations

from fastapi import FastAPI

from exchange_sim import metrics
from exchange_sim.api.admin import admin_router, status_of
from exchange_sim.api.routes import WallClock, venue_router
from exchange_sim.settings import SimSettings
from exchange_sim.venue import open_venue
from quantum_common.service import Service, build_app
from quantum_common.service.clock import wall_ms


def build(settings: SimSettings, wall_clock: WallClock = wall_ms) -> Service:
    """Candles read, account opened, routes made; signatures are checked against `wall_clock` (UTC ms)."""
    venue = open_venue(settings)
    metrics.show(venue)

    async def close() -> None:
        venue.close()

    return Service(
        settings=settings,
        loops={},
        routers=(venue_router(venue, settings, wall_clock), admin_router(venue, settings)),
        info=lambda: {"market": status_of(venue)},
        closing=(close,),
    )


def create_app(settings: SimSettings, wall_clock: WallClock = wall_ms) -> FastAPI:
    """The HTTP surface alone, for a server that the caller brings."""
    return build_app(build(settings, wall_clock))

"""Builders for the venue's tests: hand-made candles, a core world, and a venue served on loopback to a real ccxt."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import ccxt.async_support as ccxt
import httpx
import numpy as np
import pytest
import uvicorn

from exchange_sim.app import create_app
from exchange_sim.replay import World
from exchange_sim.settings import SimSettings
from exchange_sim.state import VenueState
from exchange_sim.venue import load_world
from quantum_common.candles import Candles, write_candles
from quantum_common.domain.venue import at_base_url

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC: a funding time
CLIENT_OPTIONS = {"apiKey": "paper", "secret": "paper", "enableRateLimit": False}

# Bars of BTCUSDT in the tests: flat for four hours, then down through 39,000, then up through 41,500, with gaps.
BTC_BARS = [
    (40000.0, 40000.0, 40000.0, 40000.0),
    (40000.0, 40200.0, 39800.0, 40100.0),
    (40100.0, 40300.0, 39900.0, 40000.0),
    (40000.0, 40100.0, 39900.0, 40000.0),
    (40000.0, 40050.0, 38800.0, 39200.0),
    (39200.0, 39400.0, 39100.0, 39300.0),
    (40500.0, 42000.0, 40400.0, 41800.0),
    (41800.0, 41900.0, 41500.0, 41600.0),
    (41600.0, 41700.0, 41400.0, 41500.0),
    (41500.0, 41600.0, 41300.0, 41400.0),
    (41400.0, 41500.0, 41200.0, 41300.0),
    (41300.0, 41400.0, 41100.0, 41200.0),
]


def make_candles(rows: list[tuple[float, float, float, float]], start_ms: int = START) -> Candles:
    table = np.array(rows, dtype=np.float64)
    ts = start_ms + HOUR * np.arange(len(rows), dtype=np.int64)
    return Candles(ts, *(table[:, column].copy() for column in range(4)), np.full(len(rows), 100.0))


@pytest.fixture
def candles() -> Callable[..., Candles]:
    return make_candles


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """BTCUSDT as above and ETHUSDT at a twentieth of it."""
    folder = tmp_path / "data"
    write_candles(folder, "test", "BTCUSDT", "1h", make_candles(BTC_BARS))
    eth = [(o / 20, h / 20, low / 20, c / 20) for o, h, low, c in BTC_BARS]
    write_candles(folder, "test", "ETHUSDT", "1h", make_candles(eth))
    return folder


@pytest.fixture
def settings(data_dir: Path, tmp_path: Path) -> SimSettings:
    return SimSettings(
        sim_data_dir=data_dir,
        sim_candle_venue="test",
        symbols=("BTCUSDT", "ETHUSDT"),
        state_dir=tmp_path / "state",
    )


@pytest.fixture
def world(settings: SimSettings) -> World:
    return load_world(settings)


@pytest.fixture
def fresh_state() -> Callable[..., VenueState]:
    return partial(VenueState, START, Decimal(10_000), Decimal(10_000))


@dataclass
class Served:
    """A venue on loopback: the client under test, the market clock, and the plain HTTP client beside it."""

    exchange: Any
    http: httpx.AsyncClient
    base_url: str

    async def advance(self, to_ms: int) -> dict[str, Any]:
        reply = await self.http.post("/sim/advance", json={"to_ms": to_ms})
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    async def status(self) -> dict[str, Any]:
        return dict((await self.http.get("/sim/status")).json())


def free_socket() -> socket.socket:
    # With the protocol named, asyncio turns Nagle's algorithm off on what it accepts: else 40 ms a request.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@asynccontextmanager
async def connect(base_url: str) -> AsyncIterator[Served]:
    exchange = ccxt.binanceusdm(dict(CLIENT_OPTIONS))
    exchange.urls["api"] = at_base_url(exchange.urls["api"], base_url)
    try:
        async with httpx.AsyncClient(base_url=base_url) as http:
            yield Served(exchange, http, base_url)
    finally:
        await exchange.close()


@asynccontextmanager
async def run_server(settings: SimSettings, **options: Any) -> AsyncIterator[Served]:
    listener = free_socket()
    app = create_app(settings, **options)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        async with connect(f"http://127.0.0.1:{listener.getsockname()[1]}") as served:
            yield served
    finally:
        server.should_exit = True
        await serving
        listener.close()


@pytest.fixture
def serve() -> Callable[..., Any]:
    """`async with serve(settings) as served` for tests that choose their own settings."""
    return run_server


@pytest.fixture
def dial() -> Callable[[str], Any]:
    """`async with dial(base_url) as served` for a venue that runs elsewhere."""
    return connect


@pytest.fixture
def port() -> int:
    with free_socket() as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
async def venue(settings: SimSettings) -> AsyncIterator[Served]:
    async with run_server(settings) as served:
        await served.exchange.load_markets()
        yield served


Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    async def wait(happened: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(1_000):
            if await happened():
                return
            await asyncio.sleep(0.02)
        pytest.fail("did not happen within 20 s")

    return wait

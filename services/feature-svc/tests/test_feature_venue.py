"""feature-svc through an unmodified ccxt client against the paper venue, over loopback."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn

from exchange_sim.app import create_app
from exchange_sim.settings import SimSettings
from feature_svc.adapters.ccxt_source import CcxtSource, make_exchange
from feature_svc.errors import UnknownSymbol, VenueUnavailable
from feature_svc.look import Looker, Outcome
from feature_svc.settings import Settings
from quantum_common.bus import MemoryBus
from quantum_common.candles import Candles, candle_path, read_candles, write_candles
from quantum_common.contracts import FEATURES, Keys, decode
from quantum_common.features import batch

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
SYMBOLS = ("BTCUSDT", "ETHUSDT")
DATA_DIR = Path(os.environ.get("QT_DATA_DIR") or Path(__file__).parents[4] / "shared" / "data")


def walk(seed: int, price: float, count: int) -> Candles:
    random = np.random.default_rng(seed)
    close = np.round(price * np.exp(np.cumsum(random.normal(0.0, 0.004, count))), 2)
    open_ = np.concatenate([[price], close[:-1]])
    ts = START + HOUR * np.arange(count, dtype=np.int64)
    low, high = np.minimum(open_, close), np.maximum(open_, close)
    return Candles(ts, open_, high, low, close, np.round(random.exponential(100.0, count), 3))


@asynccontextmanager
async def served(data_dir: Path, state_dir: Path, start_ms: int, venue: str = "test") -> AsyncIterator[str]:
    configuration = SimSettings(
        sim_data_dir=data_dir,
        sim_candle_venue=venue,
        sim_start_ms=start_ms,
        symbols=SYMBOLS,
        timeframe="1h",
        state_dir=state_dir,
    )
    # With the protocol named, asyncio turns Nagle's algorithm off on what it accepts: else 40 ms a request.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(configuration), log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


def settings(url: str, **changes: object) -> Settings:
    return Settings.model_validate(
        {"symbols": SYMBOLS, "timeframe": "1h", "clock": "replay", "venue_url": url, **changes}
    )


async def replay(url: str, from_ms: int, bars: int) -> list[object]:
    """Conduct the venue's clock from the first bar on; returns the events in order."""
    configuration = settings(url, from_ms=from_ms)
    bus, source = MemoryBus(), CcxtSource(make_exchange(configuration), "1h")
    looker = Looker(configuration, bus, source)
    try:
        async with httpx.AsyncClient(base_url=url) as conductor:
            for close_ms in range(from_ms + HOUR, from_ms + (bars + 1) * HOUR, HOUR):
                (await conductor.post("/sim/advance", json={"to_ms": close_ms})).raise_for_status()
                assert await looker.look(close_ms, wait_for_all=True) is Outcome.DONE
    finally:
        await source.close()
    return [decode(entry.data) for entry in reversed(await bus.newest(Keys().stream(FEATURES, "BTCUSDT"), 1000))]


def check(events: list[object], tables: dict[str, batch.FeatureTable], from_ms: int, bars: int) -> None:
    assert [(e.bar_ts_ms, e.symbol) for e in events] == [
        (from_ms + i * HOUR, symbol) for i in range(bars) for symbol in SYMBOLS
    ]
    for event in events:
        table = tables[event.symbol]
        row = int(np.searchsorted(table.ts, event.bar_ts_ms))
        assert event.payload.values == tuple(table.values[row].tolist())
        assert event.payload.volatility == table.volatility[row]


async def test_a_replay_through_the_venue_publishes_the_features_of_the_batch(tmp_path: Path) -> None:
    tables = {}
    for seed, symbol in enumerate(SYMBOLS):
        candles = walk(seed, 30_000.0 / (1 + 9 * seed), 1400)
        write_candles(tmp_path, "test", symbol, "1h", candles)
        tables[symbol] = batch.compute(candles, "1h")
    from_ms = START + 1200 * HOUR
    async with served(tmp_path, tmp_path, from_ms) as url:
        check(await replay(url, from_ms, 10), tables, from_ms, 10)


@pytest.mark.skipif(
    not all(candle_path(DATA_DIR, "binance", symbol, "1h").is_file() for symbol in SYMBOLS),
    reason="shared candles are not here",
)
async def test_a_replay_of_real_candles_with_gaps_equals_the_batch_over_the_whole_file(tmp_path: Path) -> None:
    tables = {symbol: batch.compute(read_candles(DATA_DIR, "binance", symbol, "1h"), "1h") for symbol in SYMBOLS}
    btc = tables["BTCUSDT"]
    gap = int(np.flatnonzero((btc.gap_bars > 0) & (btc.bars_since_start > 5000))[0])
    from_ms = int(btc.ts[gap + 300])  # the warm-up contains the gap
    async with served(DATA_DIR, tmp_path, from_ms, "binance") as url:
        check(await replay(url, from_ms, 10), tables, from_ms, 10)


async def test_what_the_venue_does_not_know_or_cannot_say_has_a_name(tmp_path: Path) -> None:
    for seed, symbol in enumerate(SYMBOLS):
        write_candles(tmp_path, "test", symbol, "1h", walk(seed, 100.0, 50))
    async with served(tmp_path, tmp_path, START + 20 * HOUR) as url:
        source = CcxtSource(make_exchange(settings(url)), "1h")
        with pytest.raises(UnknownSymbol, match="NOPEUSDT"):
            await source.candles("NOPEUSDT", START, 10)
        assert [row[0] for row in await source.candles("BTCUSDT", START, 3)] == [START, START + HOUR, START + 2 * HOUR]
        await source.close()
    closed = CcxtSource(make_exchange(settings("http://127.0.0.1:9")), "1h")
    with pytest.raises(VenueUnavailable, match="BTCUSDT"):
        await closed.candles("BTCUSDT", START, 3)
    await closed.close()

"""Memory and data: what was acknowledged survives a kill; what does not fit is refused at start."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from contextlib import asynccontextmanager
from decimal import Decimal

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exchange_sim import SimError
from exchange_sim.settings import SimSettings
from exchange_sim.venue import open_venue
from quantum_common.candles import CandleFileError

HOUR = 3_600_000
START = 1_704_067_200_000
BTC = "BTC/USDT:USDT"

PROGRAM = """
import sys
from exchange_sim.app import build
from exchange_sim.settings import SimSettings
from quantum_common.service import run
run(lambda: build(SimSettings.model_validate_json(sys.argv[1])))
"""


@pytest.fixture
def spawn(settings, port, dial, eventually):
    """`async with spawn() as (served, process)`: the real process on the same database every time."""

    @asynccontextmanager
    async def start():
        secrets = {"redis_url", "api_token", "sim_api_key", "sim_api_secret"}
        chosen = settings.model_copy(update={"port": port}).model_dump_json(exclude=secrets)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, chosen)
        base_url = f"http://127.0.0.1:{port}"

        async def ready() -> bool:
            assert process.returncode is None, "the venue did not start"
            try:
                async with httpx.AsyncClient() as http:
                    return (await http.get(f"{base_url}/health/ready")).status_code == 200
            except httpx.TransportError:
                return False

        try:
            await eventually(ready)
            async with dial(base_url) as served:
                yield served, process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return start


async def snapshot(served):
    """Everything a client can see of the account."""
    exchange = served.exchange
    return [
        await served.status(),
        await exchange.fapiPrivateGetUserTrades({"symbol": "BTCUSDT"}),
        await exchange.fapiPrivateGetAllOrders({"symbol": "BTCUSDT"}),
        await exchange.fapiPrivateGetAllAlgoOrders({"symbol": "BTCUSDT"}),
        await exchange.fapiPrivateV3GetAccount(),
        await exchange.fapiPrivateV3GetPositionRisk(),
        await exchange.fapiPrivateGetIncome(),
        await exchange.fapiPrivateGetSymbolConfig(),
        await exchange.fetch_ohlcv(BTC, "1h", limit=3),
    ]


async def test_f28_a_killed_venue_comes_back_with_everything_it_acknowledged(spawn):
    async with spawn() as (served, process):
        exchange = served.exchange
        await exchange.set_leverage(1, BTC)
        await exchange.set_margin_mode("isolated", BTC)
        await exchange.create_order(BTC, "market", "buy", 0.05, None, {"newClientOrderId": "qt-in"})
        stop = {"clientAlgoId": "qt-stop", "stopPrice": 39500, "reduceOnly": True}
        await exchange.create_order(BTC, "STOP_MARKET", "sell", 0.05, None, stop)
        await exchange.create_order(BTC, "limit", "buy", 0.01, 38000, {"newClientOrderId": "qt-low"})
        assert (await served.advance(START + 2 * HOUR + 17))["halted"] is False
        before = await snapshot(served)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async with spawn() as (served, _):
        assert await snapshot(served) == before
        stopped = await served.advance(START + 6 * HOUR)
        algo = await served.exchange.fetch_order(None, BTC, {"clientAlgoId": "qt-stop", "trigger": True})
        assert (stopped["halted"], stopped["last_trade_id"]) == (True, 2)
        assert algo["status"] == "closed"


async def test_the_clock_of_an_idle_advance_survives_a_kill(spawn):
    async with spawn() as (served, process):
        await served.exchange.load_markets()
        for hour in range(1, 4):
            await served.advance(START + hour * HOUR)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async with spawn() as (served, _):
        assert (await served.status())["now_ms"] == START + 3 * HOUR


async def run_day(served):
    """A fixed list of commands over half a day of market."""
    exchange = served.exchange
    await exchange.set_leverage(1, BTC)
    for hour in range(1, 12):
        side = "buy" if hour % 3 else "sell"
        await exchange.create_order(BTC, "market", side, 0.01 + hour / 1000)
        away = {"clientAlgoId": f"stop-{hour}", "stopPrice": 39000 + hour}
        await exchange.create_order(BTC, "STOP_MARKET", "sell", 0.01, None, away if hour < 4 else {"stopPrice": 38000})
        while (await served.advance(START + hour * HOUR))["halted"]:
            pass
    return await exchange.fapiPrivateGetUserTrades({"symbol": "BTCUSDT"}), (await served.status())["wallet_balance"]


async def test_the_same_commands_give_the_same_trades_prices_and_ids(settings, serve, tmp_path):
    results = []
    for run in ("a", "b"):
        fresh = settings.model_copy(update={"state_dir": tmp_path / run})
        async with serve(fresh) as served:
            results.append(await run_day(served))

    assert results[0] == results[1]
    assert len(results[0][0]) > 11


def test_a_symbol_without_a_file_is_named_at_start(settings):
    with pytest.raises(CandleFileError, match="test_DOGEUSDT_1h"):
        open_venue(settings.model_copy(update={"symbols": ("BTCUSDT", "DOGEUSDT")}))


def test_a_database_of_another_run_is_refused(settings):
    open_venue(settings).close()

    with pytest.raises(SimError, match="another run"):
        open_venue(settings.model_copy(update={"sim_initial_balance": Decimal(5)}))


def test_a_command_that_could_not_be_stored_did_not_happen(settings):
    venue = open_venue(settings)
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
    venue._store._db.execute("PRAGMA query_only=1")
    with pytest.raises(sqlite3.OperationalError):
        venue.place_order(order)
    assert (venue.state.wallet, venue.state.orders) == (10_000, {})

    venue._store._db.execute("PRAGMA query_only=0")
    assert venue.place_order(order).order_id == 1
    venue.close()


def test_a_database_in_use_is_refused(settings):
    venue = open_venue(settings)
    try:
        with pytest.raises(SimError, match="using it"):
            open_venue(settings)
    finally:
        venue.close()


async def test_historic_funding_rates_are_used_where_there_are_any(settings, serve):
    table = pa.table({"ts": [START + 8 * HOUR], "rate": [-0.00025]})
    pq.write_table(table, settings.sim_data_dir / "test_BTCUSDT_funding.parquet")
    async with serve(settings) as served:
        await served.exchange.create_order(BTC, "market", "buy", 0.05)
        await served.advance(START + 9 * HOUR)
        (funding,) = await served.exchange.fetch_funding_history(BTC)

    assert Decimal(funding["info"]["income"]) == Decimal("0.05") * 41600 * Decimal("0.00025")


def test_settings_come_from_the_environment(monkeypatch):
    for name, value in {
        "QT_SIM_DATA_DIR": "there",
        "QT_SIM_CANDLE_VENUE": "synthetic",
        "QT_SYMBOLS": "btcusdt, ETHUSDT",
        "QT_TIMEFRAME": "5m",
        "QT_SIM_START_MS": "5",
        "QT_SIM_DATABASE": "x.db",
        "QT_SIM_INITIAL_BALANCE": "250.5",
        "QT_PORT_OFFSET": "100",
    }.items():
        monkeypatch.setenv(name, value)
    settings = SimSettings()

    assert settings.symbols == ("BTCUSDT", "ETHUSDT")
    assert (settings.timeframe, settings.sim_start_ms, settings.listen_port) == ("5m", 5, 8190)
    assert (str(settings.sim_data_dir), str(settings.database)) == ("there", "x.db")
    assert settings.sim_initial_balance == Decimal("250.5")

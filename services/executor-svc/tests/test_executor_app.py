"""Settings, HTTP and wiring."""

import asyncio
from decimal import Decimal

import httpx
import pytest

from executor_svc.adapters.venue import CcxtVenue, make_exchange
from executor_svc.api import router
from executor_svc.app import build
from executor_svc.errors import RefusesToTrade, VenueRefused, VenueUnreachable
from executor_svc.executor import Executor
from executor_svc.settings import ExecutorSettings
from quantum_common.bus import MemoryBus
from quantum_common.contracts import FEATURES, AccountUpdated, OrderRejected
from quantum_common.service import MarketClock, Stop, build_app
from quantum_common.testing.eventually import eventually

HOUR_MS = 3_600_000
BAR = 1_700_000_400_000 // HOUR_MS * HOUR_MS
FLAT = (20000.0, 20020.0, 19980.0, 20000.0)
KEYS = {"venue_api_key": "k", "venue_api_secret": "s"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "live"}, "QT_LIVE_CONFIRM"),
        ({"mode": "live", "account": "main", "live_confirm": "other", **KEYS}, "QT_LIVE_CONFIRM"),
        ({"mode": "live", "account": "main", "live_confirm": "main"}, "QT_VENUE_API_KEY"),
        ({"mode": "live", "account": "paper", "live_confirm": "paper", **KEYS}, "QT_ACCOUNT"),
        ({"mode": "live", "account": "main", "live_confirm": "main", "clock": "replay", **KEYS}, "QT_CLOCK"),
        ({"live_confirm": "main"}, "paper mode"),
        (KEYS, "paper mode"),
    ],
)
def test_f25_contradictory_mode_settings_refuse_to_start(settings, message):
    with pytest.raises(RefusesToTrade, match=message):
        build(ExecutorSettings(**settings), bus=MemoryBus())


def test_f25_keys_are_shown_to_nobody():
    settings = ExecutorSettings(mode="live", account="main", live_confirm="main", **KEYS)
    settings.check_mode()
    assert "'k'" not in repr(settings)
    assert settings.credentials == ("k", "s")
    assert settings.base_url is None


def test_paper_never_reaches_the_real_venue():
    exchange = make_exchange(ExecutorSettings())
    addresses = str(exchange.urls["api"])
    assert "binance" not in addresses
    assert "http://127.0.0.1:8090/fapi/v1" in addresses


async def test_repeats_of_a_bar_from_several_partitions_are_acknowledged_together():
    bus, settings = MemoryBus(), ExecutorSettings(partitions=2)
    streams = settings.keys.all_streams(FEATURES)
    executor = Executor(settings, bus, CcxtVenue(None), MarketClock("live"))
    await executor.lease.renew()
    await executor.journal.load()
    for stream in streams:
        await bus.append(stream, b"")
    entries = await bus.read(streams, "executor-svc", "1", count=10, block_ms=10)
    await executor.journal.commit(executor.journal.book, (), entries)
    infos = await bus.stream_infos(streams)
    assert [info.groups["executor-svc"].pending for info in infos.values()] == [0, 0]


async def test_http_shows_the_book_and_flatten_needs_the_token(make_line):
    line = await make_line([FLAT] * 6, api_token="let-me-in")
    await line.start()
    await line.step(BAR)
    await line.approve()
    service = build(line.settings, bus=line.bus, venue=line.venue)
    service.routers = [router(line.settings, line.executor)]
    transport = httpx.ASGITransport(build_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://executor") as http:
        orders = (await http.get("/api/execution/orders")).json()
        assert sorted(order["role"] for order in orders["live"]) == ["stop", "take_profit"]
        positions = (await http.get("/api/execution/positions")).json()
        assert [position["symbol"] for position in positions["positions"]] == ["BTCUSDT"]
        assert (await http.post("/api/execution/flatten")).status_code == 401
        assert (await line.status())["open_positions"] == 1
        done = await http.post("/api/execution/flatten", headers={"authorization": "Bearer let-me-in"})
        assert done.json() == {"positions": 1}
        trades = (await http.get("/api/execution/trades")).json()["trades"]
        assert [trade["exit_reason"] for trade in trades] == ["flatten"]
        assert "let-me-in" not in (await http.get("/info")).text
    assert (await line.status())["open_positions"] == 0


async def test_the_service_starts_reconciles_and_takes_in_what_waits_on_the_bus(make_line):
    line = await make_line([FLAT] * 6)
    service = build(line.settings, bus=line.bus)
    assert service.not_ready() == ["starting"]
    stop = Stop()
    loops = [asyncio.create_task(loop(stop, lambda: None)) for loop in service.loops.values()]
    await eventually(lambda: service.not_ready() == [])
    assert [update.cause for update in await line.events(AccountUpdated)] == ["start"]
    stop.request()
    await asyncio.gather(*loops)
    for close in service.closing:
        await close()


async def test_f35_the_clocks_difference_is_measured_and_shown(make_line):
    line = await make_line([FLAT] * 3)
    exchange = make_exchange(line.settings)
    real = exchange.fetch_time

    async def slow_clock():
        return await real() - 4_000

    exchange.fetch_time = slow_clock
    venue = CcxtVenue(exchange)
    line._venues.append(venue)
    await venue.measure_skew()
    assert 3_900 <= venue.skew_ms <= 4_500
    line.executor = None
    service = build(line.settings, bus=line.bus, venue=venue)
    assert any("clock differs" in reason for reason in service.not_ready())


async def test_f25_the_kill_switch_of_the_governer_stops_an_entry_at_the_last_step(make_line):
    line = await make_line([FLAT] * 4)
    await line.start()
    await line.step(BAR)
    await line.trading("HALTED")
    await line.approve()
    assert (await line.events(OrderRejected))[0].reason == "KILL_SWITCH"
    assert (await line.status())["open_positions"] == 0


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ('binanceusdm {"code":-2019,"msg":"Margin is insufficient."}', VenueRefused, "-2019"),
        ('binanceusdm {"code":-2013,"msg":"Order does not exist."}', VenueRefused, "NOT_FOUND"),
        ('binanceusdm {"code":-1007,"msg":"Timeout waiting for response."}', VenueUnreachable, None),
        ('binanceusdm {"code":-4116,"msg":"ClientOrderId is duplicated."}', VenueUnreachable, None),
        ("binanceusdm 502 Bad Gateway", VenueUnreachable, None),
    ],
)
def test_f27_only_a_definite_no_of_the_venue_is_a_rejection(text, kind, code):
    import ccxt.async_support as ccxt

    error = CcxtVenue(make_exchange(ExecutorSettings()))._ours(ccxt.ExchangeError(text))
    assert type(error) is kind
    assert code is None or error.code == code


def test_f27_a_network_error_is_never_a_rejection_whatever_it_says():
    import ccxt.async_support as ccxt

    venue = CcxtVenue(make_exchange(ExecutorSettings()))
    for kind in (ccxt.RequestTimeout, ccxt.ExchangeNotAvailable, ccxt.DDoSProtection, ccxt.InvalidNonce):
        assert type(venue._ours(kind('{"code":-2019}'))) is VenueUnreachable


def test_the_price_margin_is_read_as_basis_points():
    assert ExecutorSettings(entry_price_margin_bps=Decimal(5)).rules.entry_price_margin == Decimal("0.0005")

"""Builders for the executor's tests: a bench for the pure core, and a paper venue on loopback for the rest."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import uvicorn

from executor_svc import core
from executor_svc.adapters.venue import CcxtVenue, make_exchange
from executor_svc.core.guards import SubmitContext
from executor_svc.executor import Executor
from executor_svc.settings import ExecutorSettings
from quantum_common.bus import Consumer, MemoryBus, Output, StateWrite, Unit
from quantum_common.candles import Candles, write_candles
from quantum_common.contracts import (
    ALLOCATIONS,
    EXECUTIONS,
    FEATURES,
    Candle,
    Envelope,
    FeaturesComputed,
    Look,
    PositionApproved,
    Producer,
    decode,
    encode,
    envelope,
)
from quantum_common.domain.signal import Action, Intent
from quantum_common.service import MarketClock, build_app

HOUR_MS = 3_600_000
BAR = 1_700_000_400_000 // HOUR_MS * HOUR_MS
"""Open time of the decision bar."""
BTC = core.Market("BTCUSDT", Decimal("0.1"), Decimal("0.001"), Decimal("0.001"), Decimal(1000), Decimal(100))
RULES = core.Rules(horizon_bars=5, entry_price_margin=Decimal("0.0005"), unfilled_trigger_ms=5_000)
GOVERNER = Producer("governer-svc", "1", "0")


def approval(**changes: Any) -> Envelope[PositionApproved]:
    """An approved long of 1,000 USD on BTCUSDT with a 2 % stop and a 3 % target."""
    symbol, bar_ts_ms = changes.pop("symbol", "BTCUSDT"), changes.pop("bar_ts_ms", BAR)
    fields: dict[str, Any] = {
        "decision_id": f"decision-{symbol}-{bar_ts_ms}",
        "intent": Intent.OPEN,
        "action": Action.BUY,
        "confidence": 0.8,
        "position_size_usd": Decimal(1000),
        "position_size_pct": 0.1,
        "risk_amount_usd": Decimal(20),
        "kelly_optimal": 0.08,
        "stop_distance_fraction": 0.02,
        "take_profit_distance_fraction": 0.03,
        "expires_at_ms": bar_ts_ms + HOUR_MS + 60_000,
        "batch_rank": 0,
    }
    payload = PositionApproved(**{**fields, **changes})
    return envelope(
        payload,
        producer=GOVERNER,
        produced_at_ms=0,
        symbol=symbol,
        timeframe="1h",
        bar_ts_ms=bar_ts_ms,
        natural_key=payload.decision_id + payload.intent,
    )


class Bench:
    """The core with the venue played by hand: every method is one input, `events` is what came out."""

    def __init__(self) -> None:
        self.book = core.Book(account="paper")
        self.markets = {"BTCUSDT": BTC}
        self.events: list[core.Draft] = []
        self.now_ms = BAR + HOUR_MS
        self.wall_ms = 1_000_000
        self.next_trade = 1

    def take(self, outcome: core.Outcome) -> None:
        self.book, drafts = outcome
        self.events += drafts

    def payloads(self, kind: type) -> list[Any]:
        return [draft.payload for draft in self.events if isinstance(draft.payload, kind)]

    def quote(self, bid: str = "20000", ask: str = "20000") -> core.Quote:
        deep = Decimal(1000)
        return core.Quote(((Decimal(bid), deep),), ((Decimal(ask), deep),))

    def approve(self, **changes: Any) -> None:
        event = approval(**changes)
        if event.payload.intent is Intent.CLOSE:
            return self.take(core.approve_close(self.book, event))
        self.take(
            core.approve_open(
                self.book,
                event,
                self.markets.get(event.symbol),
                self.quote(),
                RULES,
                market_now_ms=self.now_ms,
                wall_now_ms=self.wall_ms,
            )
        )
        return None

    def order(self, role: str) -> core.Order:
        return next(order for order in self.book.orders.values() if order.role == role)

    def report(self, role: str, status: core.ReportStatus, **fields: Any) -> None:
        order = self.order(role)
        fields = {"venue_order_id": f"v-{order.client_order_id}", **fields}
        self.take(core.take_report(self.book, core.OrderReport(order.client_order_id, status, **fields), self.wall_ms))

    def trade(self, role: str, quantity: str, price: str, **fields: Any) -> core.Trade:
        order = self.order(role)
        made = core.Trade(
            trade_id=self.next_trade,
            venue_order_id=order.spawned_order_id if order.conditional else f"v-{order.client_order_id}",
            symbol=order.symbol,
            side=order.side,
            quantity=Decimal(quantity),
            price=Decimal(price),
            fee=Decimal("0.5"),
            realized_pnl=Decimal(0),
            market_ts_ms=self.now_ms,
        )
        self.next_trade += 1
        return msgspec.structs.replace(made, **fields)

    def trades(self, *trades: core.Trade) -> core.Trade | None:
        self.book, drafts, unplaced = core.take_trades(self.book, trades[0].symbol, trades)
        self.events += drafts
        return unplaced

    def plan(self) -> None:
        self.take(core.plan(self.book, self.markets, RULES, self.wall_ms))

    def fill_entry(self, price: str = "20000") -> None:
        """The entry fills whole and its protection is accepted."""
        quantity = self.order("entry").quantity
        self.report("entry", core.ReportStatus.FILLED, executed=quantity)
        self.trades(self.trade("entry", str(quantity), price))
        self.plan()
        for role in ("stop", "take_profit"):
            self.report(role, core.ReportStatus.OPEN)

    def refusal(self, role: str, **context: Any) -> str:
        fields = {"market_now_ms": self.now_ms, "trading_state": "ACTIVE", "account_trusted": True, **context}
        return core.refusal(self.book, self.order(role), BTC, SubmitContext(**fields))


@pytest.fixture(scope="session")
def make_bench() -> Callable[[], Bench]:
    return Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


def write_market(folder: Path, symbol: str, closes: Sequence[tuple[float, float, float, float]]) -> None:
    """Hourly bars (open, high, low, close) from BAR on."""
    columns = [np.array(column, dtype=np.float64) for column in zip(*closes, strict=True)]
    ts = BAR + HOUR_MS * np.arange(len(closes), dtype=np.int64)
    write_candles(folder, "binance", symbol, "1h", Candles(ts, *columns, np.full(len(closes), 1000.0)))


class Killed(BaseException):
    """kill -9, as the code in its way sees it."""


class Line:
    """An executor between a bus in memory and a real paper venue; the test is governer, feature-svc and conductor."""

    Killed = Killed
    approval = staticmethod(approval)

    def __init__(self, bus: MemoryBus, settings: ExecutorSettings, http: httpx.AsyncClient) -> None:
        self.bus, self.settings, self.http = bus, settings, http
        self.keys = settings.keys
        self.venue: Any = None
        self.executor: Any = None
        self._venues: list[Any] = []

    async def start(self, venue: Any = None, bus: Any = None) -> None:
        """A new process on the same bus and venue."""
        self.venue = venue or CcxtVenue(make_exchange(self.settings))
        self._venues.append(self.venue)
        self.clock = MarketClock("replay")
        self.clock.advance((await self.status())["now_ms"])
        bus = bus or self.bus
        await self.succeed(Executor(self.settings, bus, self.venue, self.clock))
        self.consumer = Consumer(bus, self.keys.subscribed("executor-svc"), "executor-svc", "1")
        await self.executor._start_once()
        await self.consumer.start()
        while batch := await self.consumer.read(1):
            await self.consumer.handle(batch, self.executor.handle)

    async def succeed(self, executor: Executor) -> None:
        """It takes the lease over: that of the one before has run out."""
        if self.executor:
            await self.bus.lease(self.executor.lease.key, self.executor.lease._owner, 0)
        executor.lease._ttl_ms = 600_000  # nobody renews it here
        await executor.lease.renew()
        self.executor = executor

    async def trading(self, state: str) -> None:
        """The governer writes its trading state."""
        key = self.keys.account_state("governer-svc")
        version = (await self.bus.state(key)).version
        await self.bus.commit([Unit(states=[StateWrite(key, version, b"{}", {"trading_state": state})])])

    async def close(self) -> None:
        await asyncio.gather(*(venue.close() for venue in self._venues))

    async def status(self) -> dict[str, Any]:
        return (await self.http.get("/sim/status")).raise_for_status().json()

    async def publish(self, stream: str, *events: Envelope[Any]) -> None:
        await self.bus.commit([Unit(outputs=[Output(stream, encode(event)) for event in events])])

    async def turn(self) -> None:
        """What the consumer loop does once."""
        batch = await self.consumer.read(1)
        await self.survive(lambda: self.consumer.handle(batch, self.executor.handle))

    async def approve(self, **changes: Any) -> None:
        await self.publish(self.keys.stream(ALLOCATIONS), approval(**changes))
        await self.turn()

    async def bar(self, bar_ts_ms: int) -> None:
        """feature-svc publishes a closed bar."""
        payload = FeaturesComputed(Candle(1, 1, 1, 1, 1), (0.0,) * 18, 0.5, 0.0, "hash", 0, 1)
        event = envelope(
            payload,
            producer=Producer("feature-svc", "1", "0"),
            produced_at_ms=0,
            symbol="BTCUSDT",
            timeframe="1h",
            bar_ts_ms=bar_ts_ms,
        )
        await self.publish(self.keys.stream(FEATURES, "BTCUSDT"), event)
        await self.turn()

    async def advance(self, to_ms: int) -> int:
        """What the conductor does inside a bar; returns how often the venue halted at a fill."""
        halts = 0
        while True:
            answer = (await self.http.post("/sim/advance", json={"to_ms": to_ms})).raise_for_status().json()
            self.clock.advance(answer["now_ms"])
            if not answer["halted"]:
                return halts
            halts += 1
            await self.survive(lambda now_ms=answer["now_ms"]: self.executor.look(Look("clock", now_ms)))
            await self.settled()
            fields = (await self.bus.state(self.keys.account_state("executor-svc"))).fields
            assert int(fields["acknowledged_trade_id"]) >= answer["last_trade_id"]
            assert int(fields["unsettled"]) == 0

    async def survive(self, work: Callable[[], Any]) -> None:
        """Where the process is killed in it, a new one takes over and goes on with what the old one left."""
        try:
            await work()
        except Killed:
            await self.start()
        await self.settled()

    async def settled(self) -> None:
        """What the watch loop does until nothing is left to do."""
        deadline = time.monotonic() + 10
        while self.executor.journal.book.unsettled or self.executor._held:
            assert time.monotonic() < deadline, self.executor.journal.book
            await self.executor._guarded(self.executor._retry)

    async def step(self, bar_ts_ms: int) -> None:
        """The bar closes at the venue, then on the bus."""
        await self.advance(bar_ts_ms + HOUR_MS)
        await self.bar(bar_ts_ms)

    async def events(self, kind: type | None = None) -> list[Any]:
        entries = await self.bus.newest(self.keys.stream(EXECUTIONS), 1000)
        payloads = [decode(entry.data).payload for entry in reversed(entries)]
        return [payload for payload in payloads if kind is None or isinstance(payload, kind)]

    async def event_ids(self) -> list[str]:
        return [decode(entry.data).event_id for entry in await self.bus.newest(self.keys.stream(EXECUTIONS), 1000)]


@pytest.fixture
async def make_line(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await make_line(bars)`: a paper venue replaying these bars of BTCUSDT, and a Line on it (not started)."""
    from exchange_sim.app import build as build_sim
    from exchange_sim.settings import SimSettings

    lines: list[Line] = []
    async with contextlib.AsyncExitStack() as stack:

        async def make(bars: Sequence[tuple[float, float, float, float]], **settings: Any) -> Line:
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            write_market(folder, "BTCUSDT", bars)
            service = build_sim(
                SimSettings(symbols=("BTCUSDT",), sim_data_dir=folder, sim_database=folder / "sim.db", sim_start_ms=BAR)
            )
            for close in service.closing:
                stack.push_async_callback(close)
            url = await stack.enter_async_context(_serving(build_app(service)))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False))
            own = ExecutorSettings(symbols=("BTCUSDT",), clock="replay", venue_url=url, **settings)
            line = Line(MemoryBus(), own, http)
            lines.append(line)
            await line.trading("ACTIVE")
            return line

        yield make
        await asyncio.gather(*(line.close() for line in lines))  # ccxt takes a quarter of a second to close


@contextlib.asynccontextmanager
async def _serving(app: Any) -> AsyncIterator[str]:
    # With the protocol left at 0 asyncio does not turn Nagle's algorithm off: 40 ms a request.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none"))
    listener.listen()
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await task
        listener.close()

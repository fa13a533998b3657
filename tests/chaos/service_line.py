"""The line of real services in one process: the agents, meta-svc and governer-svc as they are, two instances of each.

At its ends stand two small services on the same kit: a feed instead of feature-svc (no venue, no warm-up), and a bank
instead of the executor (fills at once). So a run of many symbols and bars takes seconds, and fail points lie in every
service at once. Models are functions of the features, the same for one row and for many.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import numpy as np

from chaos.failpoints import Faults, Fleet, Loop
from governer_svc.app import build as build_governer
from governer_svc.settings import Settings as GovernerSettings
from meta_svc.app import build as build_meta
from meta_svc.settings import Settings as MetaSettings
from quantum_common.agent import ModelSpec
from quantum_common.agent import build as build_agent
from quantum_common.agent.core import RAW_HASH
from quantum_common.bus import (
    Bus,
    BusUnavailable,
    Consumer,
    Lease,
    Output,
    Received,
    RedisBus,
    StateWrite,
    Unit,
    Watermark,
    run_consumer,
)
from quantum_common.contracts import (
    ALLOCATIONS,
    DECISIONS,
    EXECUTIONS,
    FEATURES,
    PREDICTIONS,
    AccountPosition,
    AccountUpdated,
    Candle,
    FeaturesComputed,
    Keys,
    OrderFilled,
    OrderSubmitted,
    PositionApproved,
    Producer,
    TradeClosed,
    decode,
    encode,
    envelope,
)
from quantum_common.domain import AGENT_SERVICES
from quantum_common.domain.signal import Action, Intent, OrderSide, Role
from quantum_common.service import FleetSettings, Service, Stop

HOUR_MS = 3_600_000
FIRST_BAR_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
STAGES = (FEATURES, PREDICTIONS, DECISIONS, ALLOCATIONS, EXECUTIONS)
ABSENT = {"recorder-svc"}
HOLD_BARS = 3
STALLED_AFTER_S = 30.0
ZERO = Decimal(0)


class AgentSettings(FleetSettings):
    service: ClassVar[str] = ""


@dataclass
class Market:
    """What the driver knows: which bar is open to be published."""

    symbols: tuple[str, ...]
    partitions: int
    bar: int = -1

    @property
    def keys(self) -> Keys:
        return Keys(self.partitions)

    def values(self, bar: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """18 raw features per symbol, a function of the bar alone."""
        return np.random.default_rng(bar).uniform(0, 100, (len(self.symbols), 18))

    def price(self, symbol: str, bar: int) -> Decimal:
        wave = np.random.default_rng(bar * 1000 + self.symbols.index(symbol)).uniform(-2, 2)
        return Decimal(100) + Decimal(f"{wave:.2f}")


def ts_ms(bar: int) -> int:
    return FIRST_BAR_MS + bar * HOUR_MS


def bar_of(bar_ts_ms: int) -> int:
    return (bar_ts_ms - FIRST_BAR_MS) // HOUR_MS


class FakeSlot:
    """A model that is always there: probabilities from the features, by agent."""

    problem = None

    def __init__(self, agent: str) -> None:
        manifest = SimpleNamespace(agent=agent, version="1", quality="test", labels_to_ms=0)
        self._shift = sum(agent.encode()) % 7
        self.model: Any = SimpleNamespace(manifest=manifest, predict=self._predict)

    def look(self, *, again: bool = False) -> None:
        return None

    def _predict(self, rows: Any) -> Any:
        logits = np.sin(rows[:, :3].astype(np.float64) + self._shift) * 2.5
        odds = np.exp(logits)
        return np.round(odds / odds.sum(axis=1, keepdims=True), 6)


def feed(market: Market, instance: str) -> Loop:
    """Publishes every bar that is open, under a lease, from a versioned state per partition."""

    async def loop(bus: Bus, stopping: Callable[[], bool]) -> None:
        lease = Lease(bus, market.keys.lease("feature-svc", 0), instance)
        async with lease.keep(stopping):
            while not stopping():
                with contextlib.suppress(BusUnavailable):
                    if lease.held:
                        await _publish(bus, market, lease)
                await asyncio.sleep(0.002)

    return loop


async def _publish(bus: Bus, market: Market, lease: Lease) -> None:
    for partition in range(market.partitions):
        stream = market.keys.all_streams(FEATURES)[partition]
        mine = [s for s in market.symbols if market.keys.stream(FEATURES, s) == stream]
        key = stream.replace("features", "state:feed")
        state = await bus.state(key)
        bar = int(state.fields.get("next_bar", 0))
        if bar > market.bar or not mine:
            continue
        values = market.values(bar)
        outputs = []
        for symbol in mine:
            row = tuple(map(float, values[market.symbols.index(symbol)]))
            close = float(market.price(symbol, bar))
            candle = Candle(close, close, close, close, 1.0)
            payload = FeaturesComputed(candle, row, 0.5, 0.0, RAW_HASH, 0, len(market.symbols))
            outputs.append(Output(stream, encode(_event(payload, "feature-svc", symbol, bar))))
        marks = [Watermark(stream, "feature-svc", symbol, ts_ms(bar)) for symbol in mine]
        write = StateWrite(key, state.version, b"", {"next_bar": bar + 1})
        await bus.commit([lease.fence(Unit(states=[write], watermarks=marks, outputs=outputs))])


def _event(payload: Any, service: str, symbol: str, bar: int, natural_key: str = "") -> Any:
    return envelope(
        payload,
        producer=Producer(service, "1", "0"),
        produced_at_ms=time.time_ns() // 1_000_000,
        symbol=symbol,
        timeframe="1h",
        bar_ts_ms=ts_ms(bar),
        natural_key=natural_key,
    )


class Held(msgspec.Struct):
    decision_id: str
    side: OrderSide
    quantity: Decimal
    price: Decimal
    bar: int


class Account(msgspec.Struct):
    """State of the bank."""

    bar: int = -1
    sequence: int = 0
    wallet: Decimal = Decimal(10_000)
    positions: dict[str, Held] = {}
    done: list[str] = []
    """Decisions acted on, the last thousand."""


class Bank:
    """Stands for the executor: an approval fills at once, and is closed again after some bars."""

    def __init__(self, market: Market, bus: Bus, instance: str) -> None:
        keys = market.keys
        self._market, self._bus = market, bus
        self._stream, self._key = keys.stream(EXECUTIONS), keys.account_state("executor-svc")
        lease = Lease(bus, keys.lease("executor-svc"), instance)
        streams = keys.subscribed("executor-svc")
        self.consumer = Consumer(bus, streams, "executor-svc", instance, lease=lease)

    async def handle(self, batch: Sequence[Received]) -> None:
        if not batch:
            return
        state = await self._bus.state(self._key)
        account = msgspec.json.decode(state.data, type=Account) if state.data else Account()
        events: list[Any] = []
        for received in batch:
            if isinstance(received.event.payload, PositionApproved):
                self._act(account, received, events)
        for received in sorted(batch, key=lambda each: each.event.bar_ts_ms):
            if isinstance(received.event.payload, FeaturesComputed):
                self._close_bar(account, bar_of(received.event.bar_ts_ms), events)
        unit = Unit(
            inputs=[received.entry for received in batch],
            states=[StateWrite(self._key, state.version, msgspec.json.encode(account))],
            outputs=[Output(self._stream, encode(event)) for event in events],
        )
        await self.consumer.commit([unit])

    def _act(self, account: Account, received: Received, events: list[Any]) -> None:
        approved, symbol, bar = received.event.payload, received.event.symbol, bar_of(received.event.bar_ts_ms)
        if approved.decision_id in account.done:
            return
        account.done = [*account.done, approved.decision_id][-1000:]
        if approved.intent is Intent.CLOSE:
            if symbol in account.positions:
                self._exit(account, symbol, bar, events)
            return
        price = self._market.price(symbol, bar)
        side = OrderSide.BUY if approved.action is Action.BUY else OrderSide.SELL
        quantity = (approved.position_size_usd / price).quantize(Decimal("0.001"))
        account.positions[symbol] = Held(approved.decision_id, side, quantity, price, bar)
        self._order(account, symbol, Role.ENTRY, side, bar, price, ZERO, events)

    def _exit(self, account: Account, symbol: str, bar: int, events: list[Any]) -> None:
        held, price = account.positions[symbol], self._market.price(symbol, bar)
        sign = 1 if held.side is OrderSide.BUY else -1
        pnl = sign * held.quantity * (price - held.price)
        self._order(account, symbol, Role.EXIT, held.side.opposite, bar, price, pnl, events)
        account.wallet += pnl
        closed = TradeClosed(
            decision_id=held.decision_id, decision_bar_ts_ms=ts_ms(held.bar), side=held.side, quantity=held.quantity,
            entry_price=held.price, exit_price=price, fees=ZERO, funding=ZERO, pnl=pnl, exit_role=Role.EXIT,
            exit_reason="time_stop", opened_ts_ms=ts_ms(held.bar), closed_ts_ms=ts_ms(bar + 1),
        )  # fmt: skip
        del account.positions[symbol]
        events.append(_event(closed, "executor-svc", symbol, bar, held.decision_id))

    def _order(self, account: Account, symbol: str, role: Role, side: OrderSide, bar: int, price: Decimal,
               pnl: Decimal, events: list[Any]) -> None:  # fmt: skip
        held = account.positions[symbol]
        order_id = f"{held.decision_id}:{role}"
        submitted = OrderSubmitted(
            client_order_id=order_id, decision_id=held.decision_id, role=role, side=side, order_type="market",
            quantity=held.quantity, trigger_price=None, reduce_only=role is Role.EXIT,
        )  # fmt: skip
        filled = OrderFilled(
            client_order_id=order_id, decision_id=held.decision_id, decision_bar_ts_ms=ts_ms(held.bar), role=role,
            trade_id=order_id, side=side, quantity=held.quantity, price=price, fee=ZERO, realized_pnl=pnl,
            market_ts_ms=ts_ms(bar + 1), sequence=0,
        )  # fmt: skip
        events.append(_event(submitted, "executor-svc", symbol, bar, f"{order_id}:submitted"))
        events.append(_event(filled, "executor-svc", symbol, bar, order_id))

    def _close_bar(self, account: Account, bar: int, events: list[Any]) -> None:
        if bar <= account.bar:
            return
        account.bar = bar
        for symbol, held in sorted(account.positions.items()):
            if bar >= held.bar + HOLD_BARS:
                self._exit(account, symbol, bar, events)
        account.sequence += 1
        positions = tuple(
            AccountPosition(symbol, held.side, held.quantity, held.price, held.quantity * held.price, ZERO)
            for symbol, held in sorted(account.positions.items())
        )
        minima = {symbol: Decimal(10) for symbol in self._market.symbols}
        update = AccountUpdated(
            "bar", account.wallet, account.wallet, positions, ts_ms(bar + 1), ts_ms(bar), account.sequence, minima
        )
        events.append(_event(update, "executor-svc", "", bar, str(account.sequence)))


def bank(market: Market, instance: str) -> Loop:
    async def loop(bus: Bus, stopping: Callable[[], bool]) -> None:
        made = Bank(market, bus, instance)
        await run_consumer(made.consumer, made.handle, stopping=stopping, beat=lambda: None, block_ms=100)

    return loop


def service(build: Callable[[Bus], Service]) -> Loop:
    """The consumer loops of a real service."""

    async def loop(bus: Bus, stopping: Callable[[], bool]) -> None:
        stop = Stop()
        built = build(bus)
        loops = [body for name, body in built.loops.items() if name == "consume" or name.startswith("partition")]
        async with asyncio.TaskGroup() as tasks:
            for body in loops:
                tasks.create_task(body(stop, lambda: None))
            tasks.create_task(_stop_when(stopping, stop))

    return loop


async def _stop_when(stopping: Callable[[], bool], stop: Stop) -> None:
    while not await stop.wait(0.02):
        if stopping():
            stop.request()


def services(market: Market, state_dir: Path) -> dict[str, Callable[[str], Loop]]:
    common: dict[str, Any] = {
        "symbols": market.symbols, "partitions": market.partitions, "clock": "replay", "state_dir": state_dir,
    }  # fmt: skip

    def agent(name: str, service_name: str) -> Callable[[str], Loop]:
        settings_type = type("Settings", (AgentSettings,), {"service": service_name, "__annotations__": {}})
        spec = ModelSpec(name, "row", "raw")

        def make(instance: str) -> Loop:
            settings = settings_type(instance=instance, **common)
            return service(lambda bus: build_agent(settings, spec, bus, FakeSlot(name)))  # type: ignore[arg-type]

        return make

    return {
        "feed": lambda instance: feed(market, instance),
        **{name: agent(name, service_name) for name, service_name in AGENT_SERVICES.items()},
        "meta": lambda instance: service(
            lambda bus: build_meta(MetaSettings(instance=instance, models_dir=state_dir, **common), bus)
        ),
        "governer": lambda instance: service(
            lambda bus: build_governer(
                GovernerSettings(instance=instance, min_confidence_threshold=0.5, max_daily_trades=1000, **common), bus
            )
        ),
        "bank": lambda instance: bank(market, instance),
    }


@dataclass
class Result:
    """Counts and digest of a run; `problems` empty = every bar has exactly what it must have."""

    bars: int
    approvals: int
    fills: int
    digest: str
    lost: int
    doubled: int
    pending: int
    dead: int
    kills: int
    wall_s: float
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.pending or self.dead)


async def play(
    connect: Callable[[], RedisBus],
    *,
    symbols: int,
    bars: int,
    partitions: int = 1,
    faults: Faults,
    on_bar: Callable[[int], Any] = lambda bar: None,
) -> Result:
    """Bar by bar in lock step. `on_bar` is awaited between two bars' publications, if it returns something to await."""
    market = Market(tuple(f"COIN{number:02d}USDT" for number in range(symbols)), partitions)
    bus, started = connect(), time.monotonic()
    fleet = Fleet(connect, faults)
    groups = [
        (name, group)
        for spec in STAGES
        for name in market.keys.all_streams(spec)
        for group in spec.consumers
        if group not in ABSENT
    ]
    for stream, group in groups:
        await bus.ensure_group(stream, group)
    with tempfile.TemporaryDirectory() as state_dir:
        async with fleet.running(services(market, Path(state_dir))):
            for bar in range(bars):
                market.bar = bar
                if (disturbance := on_bar(bar)) is not None:
                    await disturbance
                await _settled(bus, market, groups, bar, fleet)
    if fleet.crashes:
        raise fleet.crashes[0]
    result = await _counted(bus, market, groups, bars, fleet, faults, time.monotonic() - started)
    await bus.close()
    return result


async def _settled(bus: Bus, market: Market, groups: Sequence[tuple[str, str]], bar: int, fleet: Fleet) -> None:
    """Feed and bank have the bar, and nothing is unread or pending; looked at in the order in which events move."""
    deadline = time.monotonic() + STALLED_AFTER_S
    streams = list(dict.fromkeys(stream for stream, _ in groups))
    while True:
        if fleet.crashes:
            raise fleet.crashes[0]
        left = "server"
        with contextlib.suppress(BusUnavailable):
            left = await _left(bus, market, groups, streams, bar)
        if not left:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"bar {bar} stalled: {left}")
        await asyncio.sleep(0.002)


async def _left(bus: Bus, market: Market, groups: Sequence[tuple[str, str]], streams: list[str], bar: int) -> str:
    for stream in market.keys.all_streams(FEATURES):
        if any(market.keys.stream(FEATURES, symbol) == stream for symbol in market.symbols):
            state = await bus.state(stream.replace("features", "state:feed"))
            if int(state.fields.get("next_bar", 0)) <= bar:
                return f"feed has not published {stream}"
    infos = await bus.stream_infos(streams)
    for stream, group in groups:
        info = infos[stream].groups.get(group)
        if info is None or info.pending or info.lag != 0:
            return f"{stream} {group}: {info}"
    return ""


async def _counted(bus: Bus, market: Market, groups: Sequence[tuple[str, str]], bars: int, fleet: Fleet,
                   faults: Faults, wall_s: float) -> Result:  # fmt: skip
    keys, expected = market.keys, bars * len(market.symbols)
    lost = doubled = dead = 0
    lines: list[str] = []
    counts: Counter[str] = Counter()
    for spec in STAGES:
        per_bar = {FEATURES: 1, PREDICTIONS: 4, DECISIONS: 1}.get(spec)
        seen: Counter[str] = Counter()
        for stream in keys.all_streams(spec):
            dead += (await bus.stream_infos([f"{stream}:dead"]))[f"{stream}:dead"].length
            for entry in await bus.newest(stream, 10 * expected + 100):
                event = decode(entry.data)
                seen[event.event_id] += 1
                counts[event.kind] += 1
                if spec not in (FEATURES, PREDICTIONS):
                    lines.append(_line(event))
        doubled += seen.total() - len(seen)
        if per_bar is not None:
            lost += expected * per_bar - len(seen)
    lost += expected - counts["PositionApproved"] - counts["PositionRejected"]
    infos = await bus.stream_infos([stream for stream, _ in groups])
    return Result(
        bars=bars,
        approvals=counts["PositionApproved"],
        fills=counts["OrderFilled"],
        digest=hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(),
        lost=lost,
        doubled=doubled,
        pending=sum(infos[stream].groups[group].pending for stream, group in groups),
        dead=dead,
        kills=fleet.kills,
        wall_s=wall_s,
        faults=faults.struck,
    )


def _line(event: Any) -> str:
    """Content without times, versions or the order in which it was made."""
    payload = msgspec.to_builtins(event.payload, enc_hook=str)
    return json.dumps([event.kind, event.symbol, event.bar_ts_ms, payload], sort_keys=True)

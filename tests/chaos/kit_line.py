"""A line of the kit alone, in which each guard of the commit stands alone: what a guard misses shows at once.

    features ─┬─▶ copier ─▶ predictions ─▶ tallier ─▶ state and allocations (account's slot)
              └─▶ relay ─▶ executions (account's slot)

The copier's outputs are guarded by its pending inputs only, the tallier by the version of its state only (its inputs
lie in another slot), the relay by watermarks only (its inputs too). No leases: two instances of each work at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from chaos.failpoints import Faults, Fleet
from quantum_common.bus import (
    Bus,
    Consumer,
    Output,
    Received,
    RedisBus,
    StateWrite,
    Status,
    Unit,
    Watermark,
    run_consumer,
)
from quantum_common.bus import consumer as consumer_module
from quantum_common.bus import lease as lease_module
from quantum_common.contracts import (
    Candle,
    Envelope,
    FeaturesComputed,
    FundingPaid,
    PositionRejected,
    PredictionAbstained,
    Producer,
    decode,
    encode,
    envelope,
)

FEATURES, PREDICTIONS = "{p00}:features", "{p00}:predictions"
ALLOCATIONS, EXECUTIONS, TALLY = "{acct}:allocations", "{acct}:executions", "{acct}:state:tallier"
SYMBOLS = tuple(f"S{number}" for number in range(5))
SETTLED_WITHIN_S = 60.0


@contextlib.contextmanager
def quick_kit() -> Iterator[None]:
    """The kit's waiting times in the proportions of the product, a tenth as long."""
    changed = {
        (consumer_module, "WORST_HANDLER_MS"): 400,
        (consumer_module, "CLAIM_EVERY_S"): 0.1,
        (consumer_module, "RETIRE_EVERY_S"): 0.5,
        (lease_module, "TTL_MS"): 300,
        (lease_module, "RENEW_EVERY_S"): 0.04,
    }
    before = {place: getattr(*place) for place in changed}
    for place, value in changed.items():
        setattr(*place, value)
    try:
        yield
    finally:
        for place, value in before.items():
            setattr(*place, value)


@dataclass(frozen=True)
class Outcome:
    """What a run left: numbers of events lost and doubled, entries still pending, and a digest of what there is."""

    inputs: int
    lost: int
    doubled: int
    pending: int
    tally_off: int
    kills: int
    faults: int
    wall_s: float
    digest: str

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.pending or self.tally_off)


def made(payload: Any, service: str, symbol: str, number: int) -> Envelope[Any]:
    return envelope(
        payload,
        producer=Producer(service, "1", "0"),
        produced_at_ms=0,
        symbol=symbol,
        timeframe="1h",
        bar_ts_ms=number,
    )


def copier(instance: str) -> Callable[[Bus, Callable[[], bool]], Any]:
    async def loop(bus: Bus, stopping: Callable[[], bool]) -> None:
        consumer = Consumer(bus, [FEATURES], "xgb-agent", instance, batch=16)

        async def handle(batch: Sequence[Received]) -> None:
            if batch:
                outputs = [
                    Output(PREDICTIONS, encode(made(PredictionAbstained("xgb", "collapsed", ""), "copier", *key)))
                    for key in map(_key, batch)
                ]
                await consumer.commit([Unit(inputs=[each.entry for each in batch], outputs=outputs)])

        await _run(consumer, handle, stopping)

    return loop


def tallier(instance: str) -> Callable[[Bus, Callable[[], bool]], Any]:
    """Numbers of a symbol come in any order where several copiers work, so the state keeps each of them."""

    async def loop(bus: Bus, stopping: Callable[[], bool]) -> None:
        consumer = Consumer(bus, [PREDICTIONS], "governer-svc", instance, batch=16)

        async def handle(batch: Sequence[Received]) -> None:
            while batch:
                state = await bus.state(TALLY)
                seen: dict[str, set[int]] = _unpacked(state.data)
                fresh = [each for each in batch if each.event.bar_ts_ms not in seen.get(each.event.symbol, set())]
                outputs = []
                for each in fresh:
                    symbol, number = _key(each)
                    seen.setdefault(symbol, set()).add(number)
                    rejected = PositionRejected(f"{symbol}{number}", "HOLD", 0.0, "HOLD_SIGNAL", "", 0)
                    outputs.append(Output(ALLOCATIONS, encode(made(rejected, "tallier", symbol, number))))
                write = StateWrite(TALLY, state.version, _packed(seen))
                unit = Unit(inputs=[each.entry for each in batch], states=[write], outputs=outputs)
                if (await consumer.commit([unit]))[0] is not Status.STALE:
                    return

        await _run(consumer, handle, stopping)

    return loop


def relay(instance: str) -> Callable[[Bus, Callable[[], bool]], Any]:
    async def loop(bus: Bus, stopping: Callable[[], bool]) -> None:
        consumer = Consumer(bus, [FEATURES], "meta-svc", instance, batch=16)

        async def handle(batch: Sequence[Received]) -> None:
            units = []
            for each in batch:
                symbol, number = _key(each)
                # A watermark per event: instances overtake each other here, and what comes late must not be refused.
                mark = Watermark(EXECUTIONS, "relay", f"{symbol}:{number}", number)
                paid = encode(made(FundingPaid(amount=1, market_ts_ms=number), "relay", symbol, number))
                units.append(Unit(inputs=[each.entry], watermarks=[mark], outputs=[Output(EXECUTIONS, paid)]))
            if units:
                await consumer.commit(units)

        await _run(consumer, handle, stopping)

    return loop


async def _run(consumer: Consumer, handle: Any, stopping: Callable[[], bool]) -> None:
    await run_consumer(consumer, handle, stopping=stopping, beat=lambda: None, block_ms=30)


def _key(received: Received) -> tuple[str, int]:
    return received.event.symbol, received.event.bar_ts_ms


def _packed(seen: dict[str, set[int]]) -> bytes:
    return msgspec.json.encode({symbol: sorted(numbers) for symbol, numbers in sorted(seen.items())})


def _unpacked(data: bytes | None) -> dict[str, set[int]]:
    return msgspec.json.decode(data, type=dict[str, set[int]]) if data else {}


SERVICES = {"copier": copier, "tallier": tallier, "relay": relay}
GROUPS = ((FEATURES, "xgb-agent"), (FEATURES, "meta-svc"), (PREDICTIONS, "governer-svc"))


async def play(connect: Callable[[], RedisBus], numbers: int, faults: Faults) -> Outcome:
    """Feed `numbers` per symbol, wait until nothing is in flight, and count."""
    bus, started = connect(), time.monotonic()
    fleet = Fleet(connect, faults)
    for stream, group in GROUPS:
        await bus.ensure_group(stream, group)
    async with fleet.running(SERVICES):
        for number in range(1, numbers + 1):
            payload = FeaturesComputed(Candle(1, 1, 1, 1, 1), (0.0,) * 18, 0.5, 0.0, "hash", 0, len(SYMBOLS))
            outputs = [Output(FEATURES, encode(made(payload, "feed", symbol, number))) for symbol in SYMBOLS]
            await bus.commit([Unit(outputs=outputs)])
        await _settled(bus, fleet, started + SETTLED_WITHIN_S)
    if fleet.crashes:
        raise fleet.crashes[0]
    outcome = await _counted(bus, numbers, fleet, faults, time.monotonic() - started)
    await bus.close()
    return outcome


async def _settled(bus: Bus, fleet: Fleet, deadline: float) -> None:
    while time.monotonic() < deadline and not fleet.crashes:
        infos = await bus.stream_infos([stream for stream, _ in GROUPS])
        groups = [infos[stream].groups[group] for stream, group in GROUPS]
        if all(group.pending == 0 and group.lag == 0 for group in groups):
            return
        await asyncio.sleep(0.02)


async def _counted(bus: Bus, numbers: int, fleet: Fleet, faults: Faults, wall_s: float) -> Outcome:
    expected = numbers * len(SYMBOLS)
    lost = doubled = 0
    digest = hashlib.sha256()
    for stream in (PREDICTIONS, ALLOCATIONS, EXECUTIONS):
        found = Counter(
            (event.symbol, event.bar_ts_ms)
            for event in [decode(entry.data) for entry in await bus.newest(stream, 10 * expected)]
        )
        lost += expected - len(found)
        doubled += found.total() - len(found)
        digest.update(repr(sorted(found.items())).encode())
    seen = _unpacked((await bus.state(TALLY)).data)
    infos = await bus.stream_infos([stream for stream, _ in GROUPS])
    return Outcome(
        inputs=expected,
        lost=lost,
        doubled=doubled,
        pending=sum(infos[stream].groups[group].pending for stream, group in GROUPS),
        tally_off=expected - sum(map(len, seen.values())),
        kills=fleet.kills,
        faults=faults.count,
        wall_s=wall_s,
        digest=digest.hexdigest(),
    )


@contextlib.asynccontextmanager
async def clean(connect: Callable[[], RedisBus]) -> AsyncIterator[None]:
    """An empty server before and after."""
    bus = connect()
    await bus._redis.flushall()
    await bus._redis.function_flush()
    try:
        yield
    finally:
        await bus._redis.flushall()
        await bus._redis.function_flush()
        await bus.close()
